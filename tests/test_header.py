"""The header as its users compile it: included twice, in two files, as C and C++ of every age, with every option, by every
compiler at hand, without a warning; its symbols; the README's program; the Makefile from odd states."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
C_STANDARDS = ["c99", "c11", "c17"]
CXX_STANDARDS = ["c++11", "c++17", "c++20"]

TWICE = '#define CNN_IMPLEMENTATION\n#include "cnn.h"\n#include "cnn.h"\n'
OTHER = '#include "cnn.h"\n#include "cnn.h"\nint other(void);\nint other(void) { return cnn_max_threads() > 0; }\n'
MAIN = """
int other(void);
int main(void) {
    cnn_layer layers[3];
    cnn_net *net = NULL;
    cnn_workspace *ws = NULL;
    float in[25], out[2];
    cnn_tensor x = {1, 1, 5, 5, NULL}, y = {1, 2, 1, 1, NULL};
    int i;
    for (i = 0; i < 25; i++)
        in[i] = (float)i;
    x.data = in;
    y.data = out;
    layers[0] = cnn_conv2d(2, 3, 1, 1);
    layers[1] = cnn_relu();
    layers[2] = cnn_linear(2);
    if (cnn_net_create(&net, layers, 3, 1, 5, 5) || cnn_net_init(net, CNN_XAVIER_UNIFORM, 1) ||
        cnn_workspace_create(&ws, net, CNN_INFERENCE, 1, 1) || cnn_forward(net, ws, &x, &y))
        return 1;
    cnn_workspace_free(ws);
    cnn_net_free(net);
    return OTHER ? 0 : 2;
}
"""


def compilers(cxx):
    """Names of the C or C++ compilers at hand, each once; CC's own first."""
    names = ["g++", "clang++"] if cxx else [os.environ.get("CC", "cc"), "gcc", "clang"]
    paths = {n: shutil.which(shlex.split(n)[0]) for n in names}
    first = {}
    for name in names:
        if paths[name]:
            first.setdefault((os.path.realpath(paths[name]), *shlex.split(name)[1:]), name)
    return list(first.values())


class Header(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """The implementation by the first C compiler, an object for all tests that only look at it or link it."""
        cls.shared = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.shared)
        cls.object = os.path.join(cls.shared, "cnn.o")
        with open(os.path.join(cls.shared, "cnn.c"), "w") as f:
            f.write(TWICE)
        subprocess.run([*shlex.split(compilers(False)[0]), "-std=c99", "-O0", "-I.", "-c", f.name, "-o", cls.object],
                       cwd=ROOT, check=True)

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def call(self, *command, cwd=ROOT, status=0):
        done = subprocess.run([c for part in command for c in ([part] if isinstance(part, str) else part)], cwd=cwd,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.assertEqual(done.returncode, status, f"{command}\n{done.stdout[-4000:]}")
        return done.stdout

    def check_standards(self, cxx):
        language = ["-x", "c++"] if cxx else []
        impl = self.write("impl.c", TWICE + MAIN.replace("OTHER", "other()"))
        other = self.write("other.c", OTHER)
        for compiler in compilers(cxx):
            for standard in CXX_STANDARDS if cxx else C_STANDARDS:
                with self.subTest(compiler=compiler, standard=standard):
                    flags = [*shlex.split(compiler), "-std=" + standard, *WARNINGS, "-I.", *language]
                    for source in (impl, other):
                        self.assertEqual(self.call(flags, "-fsyntax-only", source), "")

    def test_c_standards(self):
        self.check_standards(False)

    def test_cxx_standards(self):
        self.check_standards(True)

    def test_two_files_link_and_run(self):
        """As C++ optimised, for the warnings that need the optimiser's analysis (as C, tests/library.c shows them)."""
        impl = self.write("impl.c", TWICE + MAIN.replace("OTHER", "other()"))
        other = self.write("other.c", OTHER)
        program = os.path.join(self.folder, "program")
        for compiler, flags in ([(c, ["-std=c99", "-O0"]) for c in compilers(False)] +
                                [(c, ["-std=c++11", "-O1", "-x", "c++"]) for c in compilers(True)[:1]]):
            with self.subTest(compiler=compiler):
                self.call(shlex.split(compiler), flags, WARNINGS, "-I.", impl, other, "-o", program, "-lm")
                self.call(program)

    def test_c_and_cxx_share_one_implementation(self):
        if not compilers(True):
            self.skipTest("no C++ compiler")
        user = self.write("user.cpp", '#include "cnn.h"\n' + MAIN.replace("int other(void);", "").replace("OTHER", "1"))
        program = os.path.join(self.folder, "program")
        self.call(compilers(True)[0], "-std=c++17", WARNINGS, "-I.", user, self.object, "-o", program, "-lm")
        self.call(program)

    def test_options(self):
        """Each option compiles without a warning, works, and does what it says."""
        allocator = ("#include <stdlib.h>\nstatic int taken;\n"
                     "#define CNN_MALLOC(bytes) (taken++, malloc(bytes))\n#define CNN_FREE(p) (taken--, free(p))\n")
        program = os.path.join(self.folder, "program")
        for name, head, check in (
                ("static", "#define CNN_STATIC\n", "1"),
                ("no stdio", "#define CNN_NO_STDIO\n", "1"),
                ("no simd", "#define CNN_NO_SIMD\n#define CNN_NO_OPENMP\n", "cnn_instruction_set()[1] == 'c'"),
                ("no openmp", "#define CNN_NO_OPENMP\n", "cnn_max_threads() == 1"),
                ("allocator", allocator, "taken == 0")):
            with self.subTest(name):
                source = self.write("option.c", head + TWICE + MAIN.replace("int other(void);", "").replace("OTHER", check))
                self.call(shlex.split(compilers(False)[0]), "-std=c99", WARNINGS, "-O0", "-I.", source, "-o", program, "-lm")
                self.call(program)
                if name == "no stdio":
                    used = self.call("nm", "-u", program)
                    self.assertFalse(re.findall(r"\b(fopen|fread|printf|snprintf|puts)\b", used))

    def test_threads(self):
        """As many as OpenMP allows, but not more than the process has processors."""
        source = self.write("threads.c", "#include <stdio.h>\n" + TWICE +
                            'int main(void) { return printf("%d %d", cnn_max_threads(), omp_get_num_procs()) < 0; }\n')
        program = os.path.join(self.folder, "program")
        compiler = [*shlex.split(compilers(False)[0]), "-std=c99", "-O0", "-fopenmp", "-DCNN_NO_SIMD", "-I."]
        if subprocess.run([*compiler, "-x", "c", "-", "-o", program], input="int main(void) { return 0; }", text=True,
                          stderr=subprocess.DEVNULL).returncode:
            self.skipTest("no OpenMP")
        self.call(compiler, WARNINGS, source, "-o", program, "-lm")
        for asked in (1, 1000):
            threads, processors = map(int, self.call("env", "OMP_NUM_THREADS=%d" % asked, program).split())
            self.assertEqual(threads, min(asked, processors))

    def test_options_of_the_compiler_end_with_the_header(self):
        """GCC's options that the header pushes are popped again: nothing is left for a pop after it."""
        source = self.write("options.c", TWICE + "#pragma GCC pop_options\n")
        for compiler in compilers(False):
            if "__clang__" in self.call(shlex.split(compiler), "-dM", "-E", "-x", "c", os.devnull):
                continue
            for level in ("-O0", "-O2", "-Os"):
                with self.subTest(compiler=compiler, level=level):
                    self.assertIn("without a corresponding", self.call(shlex.split(compiler), "-std=c99", level, "-I.",
                                                                       "-fsyntax-only", source))

    def test_half_an_allocator_is_refused(self):
        source = self.write("half.c", "#define CNN_MALLOC(bytes) 0\n" + TWICE)
        self.assertIn("define both CNN_MALLOC", self.call(shlex.split(compilers(False)[0]), "-I.", "-c", source, "-o",
                                                          os.devnull, status=1))

    def test_symbols(self):
        """Public symbols begin with cnn_; with CNN_STATIC there are none."""
        source = self.write("symbols.c", "#define CNN_STATIC\n" + TWICE)
        static = os.path.join(self.folder, "symbols.o")
        self.call(shlex.split(compilers(False)[0]), "-std=c99", "-O0", "-I.", "-c", source, "-o", static)
        for made, wanted in ((self.object, True), (static, False)):
            names = [line.split()[-1] for line in self.call("nm", "-g", "--defined-only", made).splitlines()]
            self.assertEqual(bool(names), wanted)
            self.assertFalse([n for n in names if not re.match(r"cnn_[a-z]", n)])

    def test_every_declared_function_exists(self):
        with open(os.path.join(ROOT, "cnn.h")) as f:
            public = f.read().split("#endif /* CNN_H */")[0]
        declared = set(re.findall(r"^CNN_API .*?\b(cnn_[a-z0-9_]+)\(", public, re.M))
        defined = {line.split()[-1] for line in self.call("nm", "-g", "--defined-only", self.object).splitlines()}
        self.assertGreater(len(declared), 70)
        self.assertEqual(declared, defined)

    def test_include_from_elsewhere(self):
        """The header includes itself: it must find itself from any folder, by a relative or an absolute path."""
        os.makedirs(os.path.join(self.folder, "a", "b"))
        shutil.copy(os.path.join(ROOT, "cnn.h"), os.path.join(self.folder, "a", "cnn.h"))
        self.write("a/b/use.c", '#define CNN_IMPLEMENTATION\n#include "../cnn.h"\nint main(void) { return 0; }\n')
        cc = shlex.split(compilers(False)[0])
        self.call(cc, "-std=c99", "-fsyntax-only", "a/b/use.c", cwd=self.folder)
        self.call(cc, "-std=c99", "-fsyntax-only", "b/use.c", cwd=os.path.join(self.folder, "a"))
        self.write("a/b/use.c", '#define CNN_IMPLEMENTATION\n#include <cnn.h>\nint main(void) { return 0; }\n')
        self.call(cc, "-std=c99", "-fsyntax-only", "-I../a", "b/use.c", cwd=os.path.join(self.folder, "a"))


class Readme(unittest.TestCase):
    def test_program(self):
        """The README's program compiles as printed and runs."""
        with open(os.path.join(ROOT, "README.md")) as f:
            text = f.read()
        programs = [p for p in re.findall(r"```c\n(.*?)```", text, re.S) if "int main" in p]
        self.assertEqual(len(programs), 1)
        self.assertLessEqual(len(programs[0].strip().splitlines()), 30)
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "program.c")
            with open(source, "w") as f:
                f.write(programs[0])
            for compiler in compilers(False)[:1]:
                program = os.path.join(folder, "program")
                done = subprocess.run([*shlex.split(compiler), "-std=c99", *WARNINGS, "-O0", "-I.", source, "-o", program,
                                       "-lm"], cwd=ROOT, capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                ran = subprocess.run([program], cwd=folder, capture_output=True, text=True)
                self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
                shown = re.findall(r"```\n(loss .*?)```", text, re.S)
                self.assertTrue(shown, "the README shows what the program prints")
                self.assertEqual(re.sub(r"[\d.]+", "#", ran.stdout.strip()), re.sub(r"[\d.]+", "#", shown[0].strip()))


class Makefile(unittest.TestCase):
    def make(self, *arguments):
        done = subprocess.run(["make", "-j2", "CFLAGS=-O0 -DCNN_NO_SIMD", "BUILD=" + self.build, *arguments], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env={k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "OPENMP")})
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_states(self):
        """Parallel from nothing; again with nothing to do; anew for other flags; clean."""
        with tempfile.TemporaryDirectory() as folder:
            self.build = os.path.join(folder, "build")
            self.assertEqual(self.make().count(" -o "), 4)
            self.assertEqual(self.make().count(" -o "), 0)
            self.assertNotIn("fopenmp", self.make("OPENMP=", self.build + "/minimal"))
            self.assertEqual(self.make("OPENMP=", self.build + "/minimal").count(" -o "), 0)
            self.assertIn("make run", self.make("help"))
            self.make("clean")
            self.assertFalse(os.path.exists(self.build))


class Licence(unittest.TestCase):
    def test_same_text_in_header(self):
        def words(path):
            with open(os.path.join(ROOT, path)) as f:
                return " ".join(f.read().split())
        self.assertIn(words("LICENSE"), words("cnn.h"))


if __name__ == "__main__":
    unittest.main()
