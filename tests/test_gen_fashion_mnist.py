#!/usr/bin/env python3
"""Tests of tools/gen_fashion_mnist.py: python3 tests/test_gen_fashion_mnist.py from the root of the repository. No network."""
import contextlib
import gzip
import hashlib
import http.server
import importlib
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools")
SCRIPT = os.path.join(TOOLS, "gen_fashion_mnist.py")
sys.path.insert(0, TOOLS)
sys.dont_write_bytecode = True
gen = importlib.import_module("gen_fashion_mnist")

DEBIAN = "/usr/share/datasets/fashion-mnist"
SMALL = (gen.Split("train", 60), gen.Split("t10k", 20))
NAMES = sorted(gen.SHA256)
LAST = "t10k-labels-idx1-ubyte"

# Of the first 100 training images and labels of the default seed. A change here changes everyone's synthetic set.
PINNED_IMAGES = "627154b5347e8af9a3113d3ec90ee046c61140f284a45a0459c24958829d4ab6"
PINNED_LABELS = "8260764e2d882c24f3185fbfbb0f2f234cb700c1459339d82e0452a12733865d"


def make_set(fill):
    """A small set with right headers: {name: content}."""
    files = {}
    for prefix, count in SMALL:
        pixels = bytes((i * 7 + fill) % 256 for i in range(count * gen.PIXELS))
        files[gen.images_name(prefix)] = struct.pack(">IIII", 0x803, count, 28, 28) + pixels
        files[gen.labels_name(prefix)] = struct.pack(">II", 0x801, count) + bytes(i % 10 for i in range(count))
    return files


REAL = make_set(1)


def write_set(folder, files, gzipped=False):
    os.makedirs(folder, exist_ok=True)
    for name, content in files.items():
        with open(os.path.join(folder, name + (".gz" if gzipped else "")), "wb") as file:
            file.write(gzip.compress(content) if gzipped else content)


def read(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def overwrite(content, *path):
    with open(os.path.join(*path), "wb") as file:
        file.write(content)


class Case(unittest.TestCase):
    """An empty home and working directory; REAL stands for the real set; no place outside is looked at."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = os.path.join(folder.name, "home")
        self.work = os.path.join(folder.name, "parent", "work")
        self.place = os.path.join(folder.name, "place")
        self.out = os.path.join(folder.name, "out")
        os.makedirs(self.home)
        os.makedirs(self.work)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.work)
        self.system = os.path.join(folder.name, "system")
        places = tuple(self.system if place == DEBIAN else place for place in gen.USUAL_PLACES)
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in REAL.items()}
        environment = {key: value for key, value in os.environ.items()
                       if key != "FASHION_MNIST_DIR" and "proxy" not in key.lower()}
        environment.update(HOME=self.home, USERPROFILE=self.home)
        for patch in (mock.patch.object(gen, "USUAL_PLACES", places), mock.patch.object(gen, "DOWNLOADS", ()),
                      mock.patch.object(gen, "SPLITS", SMALL), mock.patch.object(gen, "SHA256", sums),
                      mock.patch.dict(os.environ, environment, clear=True)):
            patch.start()
            self.addCleanup(patch.stop)

    def run_tool(self, *arguments, status=0):
        """(stdout, stderr) of the tool, run in this process with --out self.out."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                got = gen.main(["--out", self.out] + list(arguments))
            except SystemExit as stop:
                got = stop.code
        self.assertEqual(got, status, err.getvalue())
        self.assertNotIn("Traceback", err.getvalue())
        if "--help" not in arguments:
            self.assertEqual(out.getvalue().count("\n"), 0 if status else 1, out.getvalue())
        return out.getvalue(), err.getvalue()

    def assertSame(self, files, others):
        """By their sums: unittest takes minutes to print how two long byte strings differ."""
        self.assertEqual(*({name: hashlib.sha256(content).hexdigest() for name, content in each.items()} for each in (files, others)))

    def assertReal(self, origin=None):
        self.assertSame({name: read(self.out, name) for name in NAMES}, REAL)
        lines = read(self.out, "SOURCE").decode().split("\n")
        self.assertEqual(lines[0].split()[0], "real")
        self.assertTrue(lines[1].startswith("from: "))
        if origin:
            self.assertEqual(lines[1], "from: " + origin)
        self.assertNoLeftovers()

    def assertSynthetic(self, seed=gen.DEFAULT_SEED):
        self.assertEqual(read(self.out, "SOURCE").decode(),
                         "synthetic garments in the shape of Fashion-MNIST\nfrom: gen_fashion_mnist.py\nseed: %d\n" % seed)
        for name, (header, size) in gen.idx_headers().items():
            content = read(self.out, name)
            self.assertEqual((content[:len(header)], len(content)), (header, size))
        self.assertNoLeftovers()

    def assertNoLeftovers(self):
        self.assertEqual(sorted(os.listdir(self.out)), ["SOURCE"] + NAMES)


class Sources(Case):
    def test_from_plain_and_gzipped(self):
        for gzipped in (False, True):
            with self.subTest(gzipped=gzipped):
                folder = self.place + str(gzipped)
                write_set(folder, REAL, gzipped)
                self.out += str(gzipped)
                out, err = self.run_tool("--from", folder)
                self.assertReal(folder)
                self.assertIn("real", out)
                self.assertEqual(err, "")

    def test_environment_variable(self):
        write_set(self.place, REAL)
        os.environ["FASHION_MNIST_DIR"] = self.place
        self.run_tool("--source", "real")
        self.assertReal(self.place)

    def test_every_usual_place(self):
        for number, place in enumerate(gen.USUAL_PLACES):
            with self.subTest(place=place), tempfile.TemporaryDirectory() as home:
                os.environ["HOME"] = os.environ["USERPROFILE"] = home
                folder = os.path.expanduser(place)
                write_set(folder, REAL, gzipped=number % 2 == 0)
                self.out = os.path.join(home, "out")
                self.run_tool("--source", "real", "--no-download")
                self.assertReal(folder)
                for entry in os.listdir(folder):
                    os.remove(os.path.join(folder, entry))

    def test_order(self):
        write_set(self.place, REAL)
        write_set(self.system, REAL)
        os.environ["FASHION_MNIST_DIR"] = self.place
        self.run_tool()
        self.assertReal(self.place)

    def test_real_already_there(self):
        write_set(self.out, REAL)
        self.assertIn("already there", self.run_tool()[0])
        self.assertReal("files that were already there")
        before = {name: os.stat(os.path.join(self.out, name)).st_mtime_ns for name in os.listdir(self.out)}
        self.assertIn("already there", self.run_tool("--source", "real")[0])
        self.assertEqual(before, {name: os.stat(os.path.join(self.out, name)).st_mtime_ns for name in os.listdir(self.out)})

    def test_real_gzipped_in_the_output_folder(self):
        write_set(self.out, REAL, gzipped=True)
        self.run_tool()
        self.assertSame({name: read(self.out, name) for name in NAMES}, REAL)
        self.assertTrue(read(self.out, "SOURCE").startswith(b"real "))

    def test_real_files_that_source_calls_synthetic(self):
        write_set(self.out, REAL)
        overwrite(gen.synthetic_source(5).encode(), self.out, "SOURCE")
        self.run_tool()
        self.assertReal()

    def test_synthesis_is_last(self):
        out, err = self.run_tool()
        self.assertSynthetic()
        self.assertIn("not the real", out)
        self.assertIn("WARNING", err)

    def test_synthetic_already_there(self):
        self.run_tool("--seed", "7")
        self.assertSynthetic(7)
        with mock.patch.object(gen, "synthesise", side_effect=AssertionError("drawn again")):
            out, err = self.run_tool()
            self.assertIn("already there (seed 7)", out)
            self.assertIn("WARNING", err)
            self.run_tool("--seed", "7")
        self.run_tool("--seed", "8")
        self.assertSynthetic(8)

    def test_damaged_synthetic_is_drawn_again(self):
        for damage in (lambda c: c[:-1], lambda c: b"\1" + c[1:], lambda c: c[:-1] + b"\x0a"):
            self.run_tool()
            whole = read(self.out, LAST)
            overwrite(damage(whole), self.out, LAST)
            self.assertIn(LAST, self.run_tool()[1])
            self.assertEqual(read(self.out, LAST), whole)

    def test_synthetic_without_source_does_not_count(self):
        self.run_tool()
        os.remove(os.path.join(self.out, "SOURCE"))
        self.run_tool("--seed", "3")
        self.assertSynthetic(3)

    def test_real_replaces_synthetic(self):
        self.run_tool()
        write_set(self.place, REAL)
        self.run_tool("--from", self.place)
        self.assertReal(self.place)

    def test_synthetic_is_forced(self):
        write_set(self.out, REAL)
        self.run_tool()
        self.run_tool("--source", "synthetic")
        self.assertSynthetic()

    def test_real_fails(self):
        self.run_tool()
        before = {name: read(self.out, name) for name in os.listdir(self.out)}
        out, err = self.run_tool("--source", "real", "--no-download", status=1)
        self.assertEqual(out, "")
        self.assertEqual(err.count("\n"), 1, err)
        self.assertIn("dataset-fashion-mnist", err)
        self.assertSame(before, {name: read(self.out, name) for name in os.listdir(self.out)})

    def test_real_fails_without_making_the_folder(self):
        self.run_tool("--source", "real", status=1)
        self.assertFalse(os.path.exists(self.out))

    @unittest.skipUnless(os.path.isdir(DEBIAN), "the package dataset-fashion-mnist is not installed")
    def test_the_real_set(self):
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
        for expected in (DEBIAN, "already there"):
            done = subprocess.run([sys.executable, SCRIPT, "--out", self.out, "--source", "real", "--no-download"],
                                  env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn(expected, done.stdout)
        self.assertNoLeftovers()


class Damage(Case):
    """One bad file in the first place: named with what is wrong, and the second place is used."""

    def check(self, expected, damage, gzipped):
        write_set(self.place, REAL, gzipped)
        write_set(self.system, REAL)
        name = LAST + (".gz" if gzipped else "")
        path = os.path.join(self.place, name)
        damage(path)
        err = self.run_tool("--from", self.place, "--source", "real")[1]
        self.assertEqual(err.count("\n"), 1, err)
        self.assertIn(path, err)
        self.assertIn(expected, err)
        self.assertReal(self.system)

    def test_truncated_gzip(self):
        self.check("truncated", lambda path: overwrite(read(path)[:-12], path), True)

    def test_not_gzip(self):
        self.check("gzip", lambda path: overwrite(b"<html>not here</html>", path), True)

    def test_corrupt_gzip(self):
        self.check("gzip", lambda path: overwrite(read(path)[:10] + b"\xff" * 20, path), True)

    def test_empty_gzip(self):
        self.check("0 bytes", lambda path: overwrite(b"", path), True)

    def test_flipped_byte(self):
        self.check("SHA-256", lambda path: overwrite(read(path)[:-1] + b"\x55", path), False)

    def test_flipped_byte_in_gzip(self):
        self.check("SHA-256", lambda path: overwrite(gzip.compress(REAL[LAST][:-1] + b"\x55"), path), True)

    def test_short(self):
        self.check("27 bytes where there should be 28", lambda path: overwrite(read(path)[:-1], path), False)

    def test_long(self):
        self.check("longer than the 28 bytes", lambda path: overwrite(read(path) + b"x", path), False)

    def test_gzip_bomb(self):
        bomb = gzip.compress(bytes(1 << 26))
        self.check("longer than the 28 bytes", lambda path: overwrite(bomb, path), True)

    def test_reading_is_bounded(self):
        stream = mock.Mock()
        stream.read.return_value = bytes(29)
        with self.assertRaisesRegex(gen.DataError, "longer than the 28 bytes"):
            gen.read_exactly(stream, 28)
        stream.read.assert_called_once_with(29)

    def test_folder_in_place_of_a_file(self):
        def damage(path):
            os.remove(path)
            os.mkdir(path)
        self.check("not a regular file", damage, False)

    @unittest.skipUnless(hasattr(os, "mkfifo"), "no named pipes here")
    def test_pipe_in_place_of_a_file(self):
        def damage(path):
            os.remove(path)
            os.mkfifo(path)
        self.check("not a regular file", damage, False)

    def test_missing_file(self):
        self.check("no such file", os.remove, False)

    def test_missing_folder(self):
        write_set(self.system, REAL)
        err = self.run_tool("--from", self.place)[1]
        self.assertIn(self.place + ": no such folder", err)
        self.assertReal(self.system)

    def test_gzipped_copy_beside_a_damaged_file(self):
        write_set(self.place, REAL)
        write_set(self.place, REAL, gzipped=True)
        overwrite(b"", self.place, LAST)
        self.assertEqual(self.run_tool("--from", self.place)[1], "")
        self.assertReal(self.place)

    def test_damaged_output_folder(self):
        write_set(self.out, REAL)
        self.run_tool()
        overwrite(REAL[LAST][:-1] + b"\x55", self.out, LAST)
        write_set(self.system, REAL)
        self.assertIn("SHA-256", self.run_tool()[1])
        self.assertReal(self.system)


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind, name = self.path[1:].split("/")
        body = gzip.compress(REAL[name[:-3]])
        if kind == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        if kind == "short":
            self.send_header("Content-Length", str(len(body)))
            body = body[:20]
        elif kind == "endless":
            body = bytes(1 << 20)
        elif kind == "wrong":
            body = gzip.compress(b"\xff" + REAL[name[:-3]][1:])
        self.end_headers()
        try:
            if kind == "stalled":
                self.server.stop.wait(20)
            while kind == "trickling" and not self.server.stop.wait(0.05):
                self.wfile.write(b"x")
            self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *_):
        pass


class Threads(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


class Download(Case):
    def setUp(self):
        super().setUp()
        self.server = Threads(("127.0.0.1", 0), Server)
        self.server.stop = threading.Event()
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.addCleanup(self.server.stop.set)

    def base(self, kind):
        return "http://127.0.0.1:%d/%s/" % (self.server.server_address[1], kind)

    def download(self, *kinds, options=()):
        with mock.patch.object(gen, "DOWNLOADS", tuple(self.base(kind) for kind in kinds)):
            return self.run_tool(*options)

    def test_download(self):
        err = self.download("good")[1]
        self.assertReal(self.base("good"))
        self.assertIn("downloading", err)

    def test_bad_servers_are_named_and_the_next_is_tried(self):
        for kind, wrong in (("missing", "404"), ("short", "truncated"), ("endless", "more bytes"), ("wrong", "SHA-256")):
            with self.subTest(kind=kind):
                err = self.download(kind, "good", options=("--from", self.place))[1]
                self.assertIn(self.base(kind), err)
                self.assertIn(wrong, err)
                self.assertReal(self.base("good"))
                overwrite(b"", self.out, LAST)

    def test_stalled_server(self):
        start = time.monotonic()
        self.assertIn("timed out", self.download("stalled", options=("--timeout", "0.3"))[1])
        self.assertLess(time.monotonic() - start, 8)
        self.assertSynthetic()

    def test_trickling_server(self):
        start = time.monotonic()
        with mock.patch.object(gen, "SLOWEST_DOWNLOAD", 2):
            self.assertIn("not whole after", self.download("trickling", options=("--timeout", "0.4"))[1])
        self.assertLess(time.monotonic() - start, 8)

    def test_refused_connection(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            base = "http://127.0.0.1:%d/" % unused.getsockname()[1]
            with mock.patch.object(gen, "DOWNLOADS", (base,)):
                err = self.run_tool("--source", "real", status=1)[1]
        self.assertIn(base, err)
        self.assertIn("refused", err)

    def test_no_download(self):
        self.assertNotIn("127.0.0.1", self.download("good", options=("--no-download",))[1])
        self.assertSynthetic()


class Synthesis(Case):
    def draw(self, seed, processes=1, chunk=7):
        with contextlib.redirect_stderr(io.StringIO()):
            return gen.synthesise(seed, processes, chunk)

    def test_seed_decides_the_bytes(self):
        first, other = self.draw(4), self.draw(5)
        self.assertSame(first, self.draw(4))
        for name in NAMES:
            self.assertNotEqual(first[name], other[name])

    def test_processes_do_not(self):
        self.assertSame(self.draw(4), self.draw(4, processes=2))

    def test_chunks_do_not(self):
        self.assertSame(self.draw(4), self.draw(4, chunk=1000))

    def test_no_processes_to_be_had(self):
        with mock.patch.object(gen, "ProcessPoolExecutor", side_effect=OSError("no semaphores")):
            self.assertSame(self.draw(4), self.draw(4, processes=2))

    def test_pinned_bytes(self):
        labels = gen.draw_labels(gen.DEFAULT_SEED, 0, 60000)[:100]
        images = gen.draw_chunk((gen.DEFAULT_SEED, 0, 0, labels))
        self.assertEqual(hashlib.sha256(labels).hexdigest(), PINNED_LABELS)
        self.assertEqual(hashlib.sha256(images).hexdigest(), PINNED_IMAGES)

    def test_classes_are_balanced_and_shuffled(self):
        labels = gen.draw_labels(1, 1, 1000)
        self.assertEqual([labels.count(label) for label in range(10)], [100] * 10)
        self.assertNotEqual(labels, bytes(i % 10 for i in range(1000)))

    def test_every_image_shows_something(self):
        images = gen.draw_chunk((1, 0, 0, bytes(i % 10 for i in range(500))))
        for i in range(500):
            image = images[i * gen.PIXELS:(i + 1) * gen.PIXELS]
            self.assertGreater(sum(v > 12 for v in image), 25, i)
            self.assertGreater(image.count(0), 100, i)
        self.assertTrue(0.2 < sum(images) / len(images) / 255 < 0.36)

    def test_train_and_test_differ(self):
        labels = bytes(range(10))
        train, test = gen.draw_chunk((1, 0, 0, labels)), gen.draw_chunk((1, 1, 0, labels))
        for i in range(0, len(train), gen.PIXELS):
            self.assertNotEqual(train[i:i + gen.PIXELS], test[i:i + gen.PIXELS])


class Writing(Case):
    def test_file_in_place_of_the_output_folder(self):
        overwrite(b"mine", self.out)
        for arguments in ((), ("--source", "synthetic")):
            err = self.run_tool(*arguments, status=1)[1]
            self.assertIn(self.out, err.split("error: ")[1])
        self.assertEqual(read(self.out), b"mine")

    def test_folder_in_place_of_a_file(self):
        os.makedirs(os.path.join(self.out, LAST))
        self.assertIn(LAST, self.run_tool("--source", "synthetic", status=1)[1])
        self.assertEqual(os.listdir(self.out), [LAST])

    def check_failing_install(self, patch, error):
        """An install over an old set that fails: no temporaries, and a SOURCE only if every file is still the old one."""
        self.run_tool()
        old = {name: read(self.out, name) for name in NAMES}
        with patch:
            self.assertIn(error, self.run_tool("--source", "synthetic", "--seed", "9", status=1)[1])
        left = os.listdir(self.out)
        self.assertEqual([name for name in left if name.endswith(".tmp")], [])
        if "SOURCE" in left:
            self.assertSame({name: read(self.out, name) for name in NAMES}, old)
        self.run_tool("--seed", "9")
        self.assertSynthetic(9)
        return left

    def test_full_disk(self):
        whole, calls = gen.write_whole, []

        def write(path, content):
            calls.append(path)
            whole(path, content[:10] if len(calls) == 3 else content)
            if len(calls) == 3:
                raise OSError(28, "No space left on device")
        self.assertIn("SOURCE", self.check_failing_install(mock.patch.object(gen, "write_whole", write), "No space left"))

    def test_rename_fails_halfway(self):
        for error, words in ((OSError(5, "Input/output error"), "Input/output"), (KeyboardInterrupt(), "interrupted")):
            with self.subTest(words=words):
                replace, calls = os.replace, []

                def rename(source, target):
                    calls.append(target)
                    if len(calls) == 3:
                        raise error
                    replace(source, target)
                left = self.check_failing_install(mock.patch.object(gen.os, "replace", rename), words)
                self.assertNotIn("SOURCE", left)

    def test_source_comes_last(self):
        replace, calls = os.replace, []

        def rename(source, target):
            calls.append(os.path.basename(target))
            self.assertFalse(os.path.exists(os.path.join(self.out, "SOURCE")))
            replace(source, target)
        self.run_tool()
        with mock.patch.object(gen.os, "replace", rename):
            self.run_tool("--source", "synthetic")
        self.assertEqual((sorted(calls[:-1]), calls[-1]), (NAMES, "SOURCE"))

    @unittest.skipIf(os.name == "nt", "signals work differently here")
    def test_interrupt(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number):
                process = subprocess.Popen([sys.executable, SCRIPT, "--out", self.out, "--source", "synthetic"],
                                           start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                           universal_newlines=True,  # SIGINT is ignored in shells' background jobs
                                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
                for line in process.stderr:
                    if "drawing" in line:
                        break
                time.sleep(0.6)
                os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
                out, err = process.communicate(timeout=20)
                self.assertEqual((process.returncode, out), (1, ""))
                self.assertIn("interrupted", err)
                self.assertNotIn("Traceback", err)
                self.assertEqual(os.listdir(self.out), [])


class Usage(Case):
    def test_wrong_usage(self):
        for arguments in (("--source", "fake"), ("--seed", "-1"), ("--seed", "1.5"), ("--seed", "9" * 30), ("--timeout", "0"),
                          ("--timeout", "nan"), ("--timeout", "soon"), ("--from", ""), ("--out", ""), ("--bogus",), ("extra",),
                          ("--source", "synthetic", "--from", "x")):
            with self.subTest(arguments=arguments):
                err = self.run_tool(*arguments, status=2)[1]
                self.assertIn("error:", err)
                self.assertFalse(os.path.exists(self.out))

    def test_help(self):
        out = self.run_tool("--help")[0]
        for word in ("--out", "--source", "--from", "--no-download", "--timeout", "--seed", "FASHION_MNIST_DIR", "exit status"):
            self.assertIn(word, out)

    def test_default_folder(self):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(gen.main(["--no-download"]), 0)
        self.assertEqual(sorted(os.listdir("data")), ["SOURCE"] + NAMES)


if __name__ == "__main__":
    unittest.main()
