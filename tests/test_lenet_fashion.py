#!/usr/bin/env python3
"""lenet_fashion from end to end: what it prints, draws, refuses and learns.

Most tests use small data sets made here, in which the place of a bright patch is the class. The last ones
train on the data/ of this repository where it is there. Environment variables: BUILD is the folder of the
program, DATA that of the data set; OPENMP is empty where the program was built without OpenMP.
"""
import errno
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.join(ROOT, os.environ.get("BUILD", "build"), "lenet_fashion")
REPOSITORY_DATA = os.path.join(ROOT, os.environ.get("DATA", "data"))
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
RESULT = re.compile(r"loss (\d+\.\d{3}), train acc ([01]\.\d{3}), test acc ([01]\.\d{3})\n"
                    r"(\d+\.\d) examples/sec on cpu\n\Z")
STEP = re.compile(r"epoch (\d+)/(\d+), step (\d+)/(\d+): loss (\d+\.\d{3}), train acc ([01]\.\d{3})")
EPOCH = re.compile(r"epoch (\d+)/(\d+): loss (\d+\.\d{3}), train acc ([01]\.\d{3}), test acc ([01]\.\d{3}), "
                   r"\d+\.\d examples/sec")
SVG = "{http://www.w3.org/2000/svg}"
DIM = bytes(value // 4 for value in range(256))

# The machine may be shared: a thread that waits must not keep a core from the one it waits for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def write_part(folder, part, count, generator):
    """count images of dim noise with a bright patch; the label is the cell of a 4x3 grid that holds it."""
    images = bytearray(struct.pack(">IIII", 0x803, count, 28, 28))
    labels = bytearray(struct.pack(">II", 0x801, count))
    for i in range(count):
        label = i % 10
        image = bytearray(generator.getrandbits(8 * 784).to_bytes(784, "big").translate(DIM))
        for y in range(label // 4 * 9, label // 4 * 9 + 6):
            image[y * 28 + label % 4 * 7:y * 28 + label % 4 * 7 + 6] = b"\xff" * 6
        images += image
        labels.append(label)
    for name, content in (("images-idx3", images), ("labels-idx1", labels)):
        with open(os.path.join(folder, "%s-%s-ubyte" % (part, name)), "wb") as file:
            file.write(content)


def write_text(path, text):
    with open(path, "w") as file:
        file.write(text)


def read_text(path):
    with open(path) as file:
        return file.read()


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="lenet_fashion_")
        cls.data = os.path.join(cls.folder, "data")
        os.mkdir(cls.data)
        generator = random.Random(7)
        write_part(cls.data, "train", 600, generator)
        write_part(cls.data, "t10k", 200, generator)
        write_text(os.path.join(cls.data, "SOURCE"), "synthetic patches\nseed: 7\n")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def setUp(self):
        self.work = tempfile.mkdtemp(dir=self.folder)
        self.plot = os.path.join(self.work, "curves.svg")

    def start(self, *options, data=None, **how):
        command = [PROGRAM, "--data", data or self.data] + list(options)
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": self.work, "timeout": 300, **how}
        return subprocess.run(command, universal_newlines=True, **how)

    def train(self, *options, **how):
        """Standard output of a run that must succeed."""
        ended = self.start(*options, **how)
        self.assertEqual((ended.returncode, ended.stderr), (0, ""), options)
        return ended.stdout

    def result(self, *options, **how):
        """(loss, train accuracy, test accuracy, examples/sec) of a run that must succeed."""
        output = self.train(*options, **how)
        self.assertRegex(output, RESULT)
        return tuple(float(number) for number in RESULT.search(output).groups())

    def assert_refused(self, ended, status, *words):
        """The exit status and one sentence with these words; no result."""
        self.assertEqual(ended.returncode, status, ended)
        self.assertRegex(ended.stderr, r"\Alenet_fashion: [^\n]+\n\Z")
        for word in words:
            self.assertIn(word, ended.stderr)
        self.assertNotRegex(ended.stdout or "", RESULT)

    def polylines(self):
        """{name: [(x, y), ...]} of the figure, in its own units, and its root."""
        root = ElementTree.parse(self.plot).getroot()
        curves = {}
        for line in root.iter(SVG + "polyline"):
            pairs = [pair.split(",") for pair in line.get("points").split()]
            curves[line.get("class")] = [(float(x), float(y)) for x, y in pairs]
        return curves, root


class Output(Case):
    def test_ends_with_the_two_lines(self):
        self.assertRegex(self.train("--epochs", "1"), RESULT)

    def test_says_what_it_trains_on(self):
        two = "2 threads" if os.environ.get("OPENMP", "-fopenmp") else "1 thread"
        for threads, words in (("1", "1 thread"), ("2", two)):
            output = self.train("--epochs", "1", "--threads", threads)
            self.assertRegex(output, r"(?m)^training on cpu \((avx512|avx2|sse2|neon|vector|scalar), %s\)$"
                             % words)
        self.assertIn("600 training images, 200 test images", output)
        self.assertIn("61706 parameters", output)

    def test_piped_output_is_plain_lines(self):
        output = self.train("--epochs", "2", "--batch", "30")
        self.assertNotRegex(output, "[\r\033\b]")
        steps = [tuple(map(int, match[:4])) for match in STEP.findall(output)]
        self.assertEqual(steps, [(epoch, 2, step, 20) for epoch in (1, 2) for step in (4, 8, 12, 16, 20)])
        epochs = EPOCH.findall(output)
        self.assertEqual([match[:2] for match in epochs], [("1", "2"), ("2", "2")])
        self.assertEqual(epochs[-1][2:], RESULT.search(output).groups()[:3])
        self.assertEqual(STEP.findall(output)[-1][4:], epochs[-1][2:4])

    def test_fewer_steps_than_fifths(self):
        output = self.train("--epochs", "1", "--batch", "250")
        self.assertEqual([match[2:4] for match in STEP.findall(output)], [("1", "3"), ("2", "3"), ("3", "3")])

    def test_quiet_is_the_two_lines(self):
        self.assertRegex(self.train("--epochs", "2", "--quiet"), r"\A" + RESULT.pattern)

    def in_terminal(self, *options):
        """What a run that must succeed writes to a terminal."""
        master, slave = pty.openpty()
        process = subprocess.Popen([PROGRAM, "--data", self.data] + list(options), stdin=slave, stdout=slave,
                                   stderr=subprocess.PIPE, cwd=self.work)
        os.close(slave)
        output = b""
        try:
            while select.select([master], [], [], 60)[0]:
                output += os.read(master, 65536)
        except OSError:  # how Linux says that the other side is closed
            pass
        finally:
            os.close(master)
        errors = process.communicate(timeout=60)[1]
        self.assertEqual((process.returncode, errors), (0, b""))
        return output.decode()

    def test_progress_bar_in_a_terminal(self):
        output = self.in_terminal("--epochs", "2", "--batch", "10")
        rows = output.replace("\r\n", "\n").split("\n")
        self.assertNotRegex(output, STEP)
        for epoch in (1, 2):
            row = next(row for row in rows if "epoch %d/2 [" % epoch in row)
            bars = [bar for bar in row.split("\r") if "[" in bar.replace("\033[", "")]
            self.assertGreaterEqual(len(bars), 50)
            shares = []
            for bar in bars:
                self.assertTrue(bar.endswith("\033[K\033[?7h"), repr(bar))
                text = re.sub(r"\033\[\??\d*[a-zA-Z]", "", bar)
                self.assertLess(len(text), 80)
                match = re.match(r"epoch %d/2 \[(#*)(\.*)\] loss \d+\.\d{3}, acc [01]\.\d{3}, "
                                 r"\d+ examples/sec, \d+:\d\d left\Z" % epoch, text)
                self.assertTrue(match, text)
                self.assertEqual(len(match.group(1)) + len(match.group(2)), 12)
                shares.append(len(match.group(1)))
            self.assertEqual(shares, sorted(shares))
            self.assertEqual((shares[0], shares[-1]), (0, 12))
            self.assertRegex(row.split("\r")[-1], r"\A\033\[K" + EPOCH.pattern)
        self.assertRegex("\n".join(rows), RESULT)

    def test_quiet_in_a_terminal(self):
        output = self.in_terminal("--epochs", "1", "--quiet")
        self.assertRegex(output.replace("\r\n", "\n"), r"\A" + RESULT.pattern)

    def test_source_of_the_data(self):
        data = os.path.join(self.work, "data")
        shutil.copytree(self.data, data)
        source = os.path.join(data, "SOURCE")
        for text, said, synthetic in (("real Fashion-MNIST\n", "(real)", False),
                                      ("synthetic\n", "(synthetic)", True),
                                      ("", "source not stated", False), (None, "source not stated", False)):
            if text is None:
                os.remove(source)
            else:
                write_text(source, text)
            output = self.train("--epochs", "1", "--plot", self.plot, data=data)
            self.assertIn(said, output)
            self.assertEqual("*** SYNTHETIC DATA" in output, synthetic, text)
            self.assertEqual("(synthetic data)" in read_text(self.plot), synthetic, text)

    def test_data_is_the_default_folder(self):
        shutil.copytree(self.data, os.path.join(self.work, "data"))
        ended = subprocess.run([PROGRAM, "--epochs", "1"], cwd=self.work, timeout=120,
                               universal_newlines=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        self.assertIn("data from data (synthetic)", ended.stdout)

    def test_help_names_every_option_and_net(self):
        output = self.train("--help")
        for word in ("--data DIR", "--net NAME", "--epochs N", "--batch N", "--lr F", "--momentum F",
                     "--weight-decay F", "--seed N", "--threads N", "--device NAME", "--limit N",
                     "--plot FILE.svg", "--quiet", "--help", "--version", "lenet-max", "lenet-relu"):
            self.assertIn(word, output)
        self.assertLessEqual(max(map(len, output.splitlines())), 80)

    def test_version(self):
        self.assertRegex(self.train("--version"), r"\Alenet_fashion \d+\.\d+\.\d+\n\Z")


class Options(Case):
    def test_value_after_a_space_or_an_equals_sign(self):
        self.assertEqual(len(EPOCH.findall(self.train("--epochs", "3"))), 3)
        self.assertEqual(len(EPOCH.findall(self.train("--epochs=3"))), 3)

    def test_ten_epochs_by_default(self):
        self.assertEqual(len(EPOCH.findall(self.train("--limit", "300"))), 10)

    def test_each_number_reaches_the_training(self):
        """Another value is said and changes the losses; the net's own value given again changes nothing."""
        def losses(output):
            return STEP.findall(output)

        common = ("--epochs", "2", "--limit", "200", "--batch", "20", "--lr", "0.9", "--threads", "1")
        usual = losses(self.train(*common))
        for option, own, other, said in (("--batch", "20", "10", "batch 10,"),
                                         ("--lr", "0.9", "0.1", "lr 0.1,"),
                                         ("--momentum", "0", "0.5", "momentum 0.5,"),
                                         ("--weight-decay", "0", "0.1", "weight decay 0.1,"),
                                         ("--seed", "1", "2", "seed 2")):
            self.assertEqual(losses(self.train(*common, option, own)), usual, option)
            output = self.train(*common, option, other)
            self.assertIn(said, output)
            self.assertNotEqual(losses(output), usual, option)

    def test_limit(self):
        output = self.train("--limit", "100", "--batch", "10", "--epochs", "1")
        self.assertIn(": 100 training images, 200 test images", output)
        self.assertEqual(STEP.findall(output)[-1][2:4], ("10", "10"))
        self.assertIn(": 600 training images", self.train("--limit", "2147483647", "--epochs", "1"))

    def test_limit_takes_the_first_images(self):
        data = os.path.join(self.work, "first")
        shutil.copytree(self.data, data)
        for name, head, size in ((FILES[0], 16, 784), (FILES[1], 8, 1)):
            with open(os.path.join(data, name), "r+b") as file:
                content = file.read(head + 100 * size)
                file.seek(0)
                file.truncate()
                file.write(content[:4] + struct.pack(">I", 100) + content[8:])
        common = ("--epochs", "2", "--batch", "10", "--seed", "5")
        self.assertEqual(self.result(*common, data=data)[:3], self.result(*common, "--limit", "100")[:3])

    def test_networks(self):
        for net, parameters, batch, rate in (("lenet", 61706, 256, "0.9"), ("lenet-max", 44426, 256, "0.9"),
                                             ("lenet-relu", 88166, 64, "0.03 falling to 0.0003")):
            said = "%s: %d parameters, batch %d, lr %s," % (net, parameters, batch, rate)
            self.assertIn(said, self.train("--net", net, "--epochs", "1"))
        output = self.train("--lr", "0.02", "--batch=50", "--net", "lenet-relu", "--epochs", "1")
        self.assertIn("batch 50, lr 0.02 falling to 0.0002, momentum 0.9,", output)

    def test_same_seed_same_numbers_for_any_threads(self):
        runs = []
        for threads in ("1", "2", "2", "3"):
            output = self.train("--epochs", "3", "--limit", "330", "--batch", "32", "--threads", threads,
                                "--plot", self.plot)
            runs.append((STEP.findall(output), RESULT.search(output).groups()[:3], read_text(self.plot)))
        self.assertEqual(len(runs[0][0]), 15)
        for run in runs[1:]:
            self.assertEqual(run, runs[0])

    def test_it_learns(self):
        options = ("--net", "lenet-relu", "--epochs", "6", "--batch", "20", "--threads", "1")
        loss, train, test, rate = self.result(*options)
        self.assertLess(loss, 0.5)
        self.assertGreater(train, 0.8)
        self.assertGreater(test, 0.95)
        self.assertGreater(rate, 0)


class WrongUsage(Case):
    def test_wrong_usage(self):
        for options, words in (
                (["--bogus"], "'--bogus'"), (["--bogus=1"], "'--bogus=1'"), (["-x"], "'-x'"),
                (["data"], "'data'"), (["--"], "'--'"), ([""], "''"), (["--epoch", "1"], "'--epoch'"),
                (["--=1"], "'--=1'"), (["--epochs"], "--epochs N"), (["--net"], "--net NAME"),
                (["--plot="], "--plot FILE.svg"), (["--lr"], "--lr F"), (["--quiet=1"], "no value"),
                (["--batch", ""], "--batch N"),
                (["--epochs", "0"], "'0'"), (["--epochs", "-1"], "'-1'"), (["--epochs", "many"], "'many'"),
                (["--epochs", "1x"], "'1x'"), (["--epochs", "1.5"], "'1.5'"),
                (["--epochs", "4294967297"], "from 1 to 10000"), (["--epochs", "9" * 40], "whole number"),
                (["--batch", "0"], "--batch"), (["--batch", "2147483648"], "from 1 to 2147483647"),
                (["--lr", "0"], "--lr"), (["--lr", "-1"], "--lr"), (["--lr", "nan"], "'nan'"),
                (["--lr", "inf"], "'inf'"), (["--lr", "1e999"], "'1e999'"), (["--lr", "fast"], "'fast'"),
                (["--momentum", "-0.1"], "--momentum"), (["--momentum", "x"], "number"),
                (["--weight-decay", "-1"], "--weight-decay"), (["--seed", "-1"], "--seed"),
                (["--seed", "18446744073709551617"], "--seed"), (["--threads", "0"], "--threads"),
                (["--device", "tpu"], "--device"), (["--device"], "--device NAME"),
                (["--threads", "two"], "'two'"), (["--limit", "0"], "--limit"),
                (["--net", "lenet-9"], "'lenet-9'"), (["--net", "alexnet"], "'alexnet'"),
                (["--plot", "x" * 5000], "too long")):
            ended = self.start(*options)
            self.assert_refused(ended, 2, words)
            self.assertEqual(ended.stdout, "", options)
        self.assertEqual(os.listdir(self.work), [])

    def test_batch_larger_than_the_data(self):
        for options, words in ((["--batch", "601"], "600"), (["--limit", "100"], "100")):
            self.assert_refused(self.start("--plot", self.plot, *options), 1, "--batch", words)
        self.assertEqual(os.listdir(self.work), [])
        self.result("--batch", "600", "--epochs", "1")


class Failures(Case):
    def damage(self, name, content):
        """A copy of the data with one file of this content, or without it."""
        data = tempfile.mkdtemp(dir=self.work)
        shutil.copytree(self.data, os.path.join(data, "d"))
        path = os.path.join(data, "d", name)
        if content is None:
            os.remove(path)
        else:
            with open(path, "wb") as file:
                file.write(content)
        return os.path.join(data, "d")

    def test_missing_folder(self):
        name = "nowhere/train-images-idx3-ubyte"
        self.assert_refused(self.start(data="nowhere"), 1, name, "`make data`", "--data")

    def test_missing_or_damaged_files(self):
        for name in FILES:
            with open(os.path.join(self.data, name), "rb") as file:
                content = file.read()
            for damaged in (None, b"", content[:3], content[:9], content[:-1], content + b"\0",
                            b"\1" + content[1:]):
                ended = self.start("--epochs", "1", "--plot", self.plot, data=self.damage(name, damaged))
                self.assert_refused(ended, 1, name, "`make data`")
                self.assertFalse(os.path.exists(self.plot))

    def test_label_that_is_no_class(self):
        name = FILES[1]
        with open(os.path.join(self.data, name), "rb") as file:
            content = file.read()
        self.assert_refused(self.start(data=self.damage(name, content[:-1] + b"\12")), 1, name, "10")

    def test_diverged(self):
        ended = self.start("--net", "lenet-relu", "--lr", "1e20", "--plot", self.plot)
        self.assert_refused(ended, 1, "learning rate")
        self.assertEqual(os.listdir(self.work), [])

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full on this system")
    def test_full_standard_output(self):
        for options in (("--quiet", "--epochs", "1"), ("--epochs", "1"), ("--help",), ("--version",)):
            with open("/dev/full", "w") as full:
                self.assert_refused(self.start(*options, stdout=full), 1, "standard output")

    def test_closed_standard_output(self):
        for options in (("--quiet", "--epochs", "1"), ("--epochs", "1"), ("--help",)):
            reader, writer = os.pipe()
            os.close(reader)
            with os.fdopen(writer, "w") as closed:
                self.assert_refused(self.start(*options, stdout=closed), 1, "standard output")


class Plot(Case):
    def test_figure(self):
        output = self.train("--net", "lenet-relu", "--epochs", "3", "--plot", self.plot)
        self.assertEqual(os.listdir(self.work), ["curves.svg"])
        curves, root = self.polylines()
        self.assertEqual({name: len(points) for name, points in curves.items()},
                         {"curve train loss": 15, "curve train accuracy": 15, "curve test accuracy": 3})
        _, _, width, height = map(float, root.get("viewBox").split())
        for points in curves.values():
            self.assertEqual(points, sorted(points))
            for x, y in points:
                self.assertTrue(0 < x < width and 0 < y < height, (x, y))
        self.assert_values(output, curves, root)
        texts = [text.text for text in root.iter(SVG + "text")]
        for text in ("epoch (synthetic data)", "train loss", "train accuracy", "test accuracy", "0", "3"):
            self.assertIn(text, texts)
        style = root.find(SVG + "style").text
        self.assertIn("prefers-color-scheme: dark", style)
        self.assertEqual(len(set(re.findall(r"stroke-dasharray: [\d ]+", style))), 2)

    def assert_values(self, output, curves, root):
        """The points, measured by the labels of the grid, are the numbers that were printed."""
        marks = [(float(text.get("y")) - 6, float(text.text)) for text in root.iter(SVG + "text")
                 if text.get("text-anchor") == "end"]
        (zero, low), (one, high) = marks[0], marks[-1]
        self.assertEqual(low, 0)
        steps = STEP.findall(output)
        printed = {"curve train loss": [float(match[4]) for match in steps],
                   "curve train accuracy": [float(match[5]) for match in steps],
                   "curve test accuracy": [float(match[4]) for match in EPOCH.findall(output)]}
        for name, numbers in printed.items():
            for (_, y), number in zip(curves[name], numbers):
                self.assertAlmostEqual((zero - y) / (zero - one) * high, number, delta=0.002 * high)

    def test_figure_of_one_step(self):
        self.train("--epochs", "1", "--batch", "600", "--plot", self.plot, "--quiet")
        curves, _ = self.polylines()
        self.assertEqual(sorted(map(len, curves.values())), [1, 1, 1])

    def test_folder_that_cannot_be_written_is_found_before_training(self):
        file = os.path.join(self.work, "file")
        write_text(file, "")
        for plot in (os.path.join(self.work, "nowhere", "curves.svg"), os.path.join(file, "curves.svg"),
                     self.work, "/dev/null"):
            ended = self.start("--plot", plot)
            self.assert_refused(ended, 1, plot, "--plot")
            self.assertEqual(ended.stdout, "")
        self.assertEqual(os.listdir(self.work), ["file"])

    def test_failed_training_leaves_the_old_figure(self):
        write_text(self.plot, "old")
        self.start("--net", "lenet-relu", "--lr", "1e20", "--plot", self.plot)
        self.assertEqual((os.listdir(self.work), read_text(self.plot)), (["curves.svg"], "old"))

    def test_full_disk_leaves_the_old_figure(self):
        """A limit on the size of a file lets the trial through and stops the figure grown by its curves."""
        write_text(self.plot, "old")
        options = ("--epochs", "40", "--limit", "10", "--batch", "2", "--plot", self.plot)
        self.train(*options)
        whole = os.path.getsize(self.plot)

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (whole - 1000, whole - 1000))

        ended = self.start(*options, preexec_fn=limit)
        self.assert_refused(ended, 1, self.plot, os.strerror(errno.EFBIG))
        self.assertEqual(os.listdir(self.work), ["curves.svg"])
        points = len(self.polylines()[0]["curve test accuracy"])
        self.assertTrue(0 < points < 40, points)

    def test_interrupted_training_leaves_a_whole_figure(self):
        for _ in range(3):
            process = subprocess.Popen([PROGRAM, "--data", self.data, "--epochs", "10000", "--batch", "100",
                                        "--quiet", "--plot", self.plot], cwd=self.work)
            try:
                deadline = time.monotonic() + 60
                while not os.path.exists(self.plot) and time.monotonic() < deadline:
                    time.sleep(0.005)
                time.sleep(0.1)
            finally:
                process.kill()
            self.assertEqual(process.wait(), -signal.SIGKILL)
            self.assertGreaterEqual(len(self.polylines()[0]["curve test accuracy"]), 1)
            os.remove(self.plot)


class Synthetic(Case):
    """On the synthetic stand-in, as on a machine without the real data set and without a network."""

    def test_training_learns_but_not_everything(self):
        folder = os.path.join(self.work, "synthetic")
        made = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "gen_fashion_mnist.py"), "--source",
                               "synthetic", "--out", folder], capture_output=True, text=True, timeout=200)
        self.assertEqual(made.returncode, 0, made.stderr)
        self.assertIn("SYNTHETIC", made.stderr)
        output = self.train("--epochs", "5", data=folder)
        self.assertIn("*** SYNTHETIC DATA", output)
        accuracy = float(RESULT.search(output).group(3))
        self.assertTrue(0.80 <= accuracy <= 0.97, accuracy)


class Repository(Case):
    """On the data of this repository."""

    def setUp(self):
        super().setUp()
        source = os.path.join(REPOSITORY_DATA, "SOURCE")
        if not os.path.exists(source):
            self.skipTest("no data in %s: run `make data`" % REPOSITORY_DATA)
        self.source = read_text(source).split()[0]

    def test_short_training(self):
        output = self.train("--limit", "6000", "--epochs", "1", data=REPOSITORY_DATA)
        self.assertIn("(%s): 6000 training images, 10000 test images" % self.source, output)
        self.assertRegex(output, RESULT)

    def need_real(self):
        if self.source != "real":
            self.skipTest("the data in %s is %s: no known result" % (REPOSITORY_DATA, self.source))

    def test_default_training_lands_in_the_known_spread(self):
        self.need_real()
        loss, train, test, _ = self.result(data=REPOSITORY_DATA)
        self.assertTrue(0.44 <= loss <= 0.50, loss)
        self.assertTrue(0.81 <= train <= 0.85, train)
        self.assertGreaterEqual(test, 0.74)

    def test_relu_training_in_short(self):
        """Three epochs; ten, and 0.90, are for tests/train_seeds.py."""
        self.need_real()
        self.assertGreaterEqual(self.result("--net", "lenet-relu", "--epochs", "3", data=REPOSITORY_DATA)[2], 0.87)


if __name__ == "__main__":
    if not os.path.exists(PROGRAM):
        sys.exit("test_lenet_fashion: %s is not there; build it with `make`" % PROGRAM)
    unittest.main()
