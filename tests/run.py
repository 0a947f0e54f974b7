"""Builds and runs every test group, two at a time; a line for each, then "N passed, N failed[, N skipped]".

    make test                      or    python3 tests/run.py [WORD ...]

With words, only the groups whose names contain one. Only so run "raced" and "shuffled", the CUDA back end under
ThreadSanitizer and at full length, "emulated", the AVX-512 kernels under the sanitizers on machines with AVX2, and
"cuda_build", nvcc's minutes. A group is a row of commands: exit status 0 passes, 77 skips
(the last line printed is the reason), anything else fails and its output is shown. CC, CFLAGS, OPENMP, BUILD and
DATA come from the environment, as the Makefile sets them.
"""

import concurrent.futures
import glob
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time

CC = os.environ.get("CC", "cc")
CXX = os.environ.get("CXX", CC.replace("clang", "clang++") if "clang" in CC else "g++")
CFLAGS = shlex.split(os.environ.get("CFLAGS", "-O2 -g"))
OPENMP = shlex.split(os.environ.get("OPENMP", ""))
BUILD = os.environ.get("BUILD", "build")
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
SANITIZE = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# Clang 14's fibers hang under ThreadSanitizer; calls in place of inline checks halve the time to compile.
CUDA_SANITIZE = ["-O1", "-fsanitize=address,alignment", "-fno-sanitize-recover=all", "--param",
                 "asan-instrumentation-with-call-threshold=0"]
CUDA_RACE = ["-O1", "-fsanitize=thread"]
# The AVX-512 kernels where the machine has none: tests/avx512_shim.h. The vectors it passes have no ABI here.
AVX512_SHIM = ["-DCNN__AVX512_SHIM", "-Wno-psabi"]
LACKS_AVX512 = """#ifdef __x86_64__
int main(void) { return !!__builtin_cpu_supports("avx512f"); }
#endif
"""
TIMEOUT = 280
LONG = ["cuda back end", "header", "operators, sanitized", "lenet_fashion", "operators, avx512", "network, sanitized",
        "operators, no simd"]

# What test_cuda runs under the shim, as groups of it: words that name its tests.
CUDA_OPERATORS = ["device", "conv2d", "tf32", "linear", "pools", "activations", "dropout", "losses", "plain",
                  "initialisation", "failures"]
CUDA_TRAINING = ["networks", "fused", "fit", "golden"]
CUDA_RACES = ["linear", "pools", "losses", "plain", "fused"]


def build_once(command):
    """A step that runs the command when it first comes, and then answers as it did."""
    built = threading.Lock()
    state = {}

    def step():
        with built:
            if not state:
                state["done"] = call(command)
        return state["done"]

    return step


def variant_groups(sources, variant, flags, compiler=CC, library_flags=()):
    """C test programs in one variant: the library compiled once, by the first to need it, then each program."""
    folder = os.path.join(BUILD, "tests", variant.replace(" ", "_") or "plain")
    os.makedirs(folder, exist_ok=True)
    library = os.path.join(folder, "library.o")
    compile_it = [*shlex.split(compiler), "-std=c99", *WARNINGS, *flags, "-I."]
    build_library = build_once([*compile_it, *library_flags, "-c", "tests/library.c", "-o", library])

    def group(source):
        name = os.path.splitext(os.path.basename(source))[0]
        program = os.path.join(folder, name)
        return (name[5:] + (", " + variant if variant else ""),
                [build_library, [*compile_it, source, library, "-o", program, "-lm"], [program]])

    return [group(s) for s in sources]


def probe(compiler, flags, text="int main(void) { return 0; }\n"):
    """Whether a program of this text can be built so, and exits with status 0."""
    path = os.path.join(BUILD, "tests", "probe")
    with open(path + ".c", "w") as f:
        f.write(text)
    build = [*shlex.split(compiler), *flags, path + ".c", "-o", path]
    return not subprocess.run(build, capture_output=True).returncode and not subprocess.run([path]).returncode


def is_clang():
    version = subprocess.run([*shlex.split(CC), "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True)
    return "clang" in version.stdout


def fast_math():
    """Flags that must change nothing in the library: cnn.h turns them off. (Clang's it cannot, wholly.)"""
    flags = ["-ffast-math", "-march=native"]
    return flags if not is_clang() and probe(CC, flags) else []


def sanitizer_compiler():
    """CC, or gcc where CC is Clang, which takes minutes to instrument the unrolled kernels; None: cannot."""
    compiler = shutil.which("gcc") if is_clang() else CC
    return compiler if compiler and probe(compiler, SANITIZE) else None


def cuda_groups(variant, flags, compiler, parts):
    """The CUDA back end under tests/cuda_shim.h: the shim's own test, and tests/test_cuda.cpp in parts."""
    folder = os.path.join(BUILD, "tests", "cuda_" + variant)
    os.makedirs(folder, exist_ok=True)
    library = os.path.join(folder, "library_cuda.o")
    program = os.path.join(folder, "test_cuda")
    shim = os.path.join(folder, "test_cuda_shim")
    compile_it = [*shlex.split(compiler), "-std=c++11", *WARNINGS, *flags, "-I."]
    build_library = build_once([*compile_it, "-DCNN_NO_SIMD", "-c", "tests/library_cuda.cpp", "-o", library])
    build_test = build_once([*compile_it, "tests/test_cuda.cpp", library, "-o", program])
    result = [("cuda shim, " + variant, [[*compile_it, "tests/test_cuda_shim.cpp", "-o", shim], [shim]])]
    for part, words in parts.items():
        result.append((f"cuda {part}, {variant}", [build_library, build_test, [program, *words]]))
    return result


def groups():
    sources = sorted(glob.glob("tests/test_*.c"))
    scripts = sorted(glob.glob("tests/test_*.py"))
    scripts = [s for s in scripts if "cuda_build" not in s or "cuda_build" in sys.argv[1:]]
    result = [(os.path.basename(s)[5:-3], [[sys.executable, s, "-v"]]) for s in scripts]
    result += variant_groups(sources, "", CFLAGS + OPENMP)
    fast = fast_math()
    if OPENMP:
        result += variant_groups([s for s in sources if "network" in s], "no openmp", CFLAGS, CC, fast)
    result += variant_groups([s for s in sources if "operators" in s or "network" in s], "no simd",
                             CFLAGS + OPENMP + ["-DCNN_NO_SIMD"], CC, fast)
    kernels = [s for s in sources if any(word in s for word in ("cases", "golden", "network", "operators"))]
    if probe(CC, [], LACKS_AVX512):
        result += variant_groups(kernels, "avx512 shim", ["-O1"] + AVX512_SHIM)
    compiler = sanitizer_compiler()
    if not compiler or "shuffled" in sys.argv[1:]:  # whole; sanitized, every test in short
        result += cuda_groups("shuffled", ["-O1"], CXX, {"operators": CUDA_OPERATORS, "training": CUDA_TRAINING})
    if any("sanitize" in flag for flag in CFLAGS):
        return result
    if compiler:
        careful = [s for s in sources if any(word in s for word in ("errors", "idx", "network", "operators"))]
        result += variant_groups(careful, "sanitized", SANITIZE + (OPENMP and ["-fopenmp"]), compiler)
        if "emulated" in sys.argv[1:]:  # a minute to compile; only this sees what masked loads overrun
            result += variant_groups([s for s in sources if "errors" in s or s in kernels], "avx512 emulated",
                                     SANITIZE + (OPENMP and ["-fopenmp"]) + AVX512_SHIM, compiler)
        if shutil.which("g++"):
            result += cuda_groups("sanitized", CUDA_SANITIZE, "g++", {"back end": ["short"]})
            if "raced" in sys.argv[1:]:  # slower, and only when asked for
                result += cuda_groups("raced", CUDA_RACE, "g++", {"back end": ["short", *CUDA_RACES]})
    else:
        result.append(("sanitized", [["sh", "-c", "echo 'no compiler here has the sanitizers'; exit 77"]]))
    return result


def call(command):
    """(exit status, output)"""
    environment = dict(os.environ, OMP_WAIT_POLICY="passive", PYTHONDONTWRITEBYTECODE="1")
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=TIMEOUT, env=environment)
    except subprocess.TimeoutExpired as e:
        return 1, (e.output or b"").decode(errors="replace") + f"\nstopped after {TIMEOUT} s"
    return done.returncode, done.stdout.decode(errors="replace").rstrip()


def run(group):
    """(name, status, output, seconds)"""
    name, steps = group
    begin = time.monotonic()
    status, output = 1, "no steps"
    for step in steps:
        status, output = step() if callable(step) else call(step)
        if status:
            break
    return name, status, output, time.monotonic() - begin


def main():
    os.makedirs(os.path.join(BUILD, "tests"), exist_ok=True)
    chosen = [g for g in groups() if not sys.argv[1:] or any(word in g[0] for word in sys.argv[1:])]
    longest = {word: place for place, word in enumerate(LONG)}  # first, lest one be left alone at the end
    chosen.sort(key=lambda g: min((longest[word] for word in LONG if word in g[0]), default=len(LONG)))
    count = {"passed": 0, "failed": 0, "skipped": 0}
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run, g) for g in chosen]):
            name, status, output, seconds = done.result()
            last = output.splitlines()[-1] if output else ""
            verdict = {0: "passed", 77: "skipped"}.get(status, "failed")
            count[verdict] += 1
            print(f"{verdict:8}{name:32}{seconds:6.1f} s  {last[:120]}", flush=True)
            if verdict == "failed":
                print("\n".join("    " + line for line in output.splitlines()[-25:]), flush=True)
            for line in output.splitlines()[:-1]:
                if verdict == "passed" and (line.lstrip().startswith("skipped") or " ... skipped " in line):
                    print("    " + line.strip(), flush=True)
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    print(f"{count['passed']} passed, {count['failed']} failed{skipped}")
    return 1 if count["failed"] or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
