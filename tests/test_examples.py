"""What the example programs print: build/minimal, build/tour and build/summary (BUILD overrides "build")."""
import os
import re
import subprocess
import unittest

BUILD = os.environ.get("BUILD", "build")


def run(program, *arguments):
    command = [os.path.join(BUILD, program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def figures(text):
    """The figures drawn side by side in a section, as a list of (name, planes), a plane being a list of rows.

    A figure starts at its name's column; names and figures are three or more spaces apart, and planes are
    separated by a line that is blank in that column.
    """
    found = []
    lines = text.split("\n")
    for at in range(1, len(lines)):
        starts = [match.start() for match in re.finditer(r"\[", lines[at])]
        if not starts or "[" in lines[at - 1] or not lines[at].startswith("    ["):
            continue
        names = {match.start(): match.group() for match in re.finditer(r"\S+(?: \S+)*", lines[at - 1])}
        if not set(starts) <= set(names):  # the next plane of a figure
            continue
        end = next((i for i in range(at, len(lines)) if not lines[i]
                    and (i + 1 == len(lines) or "[" not in lines[i + 1])), len(lines))
        for start in starts:
            planes = [[]]
            for line in lines[at:end]:
                row = re.match(r"\[([^\]]*)\]", line[start:])
                if row:
                    planes[-1].append([float(number) for number in row.group(1).split()])
                elif planes[-1]:
                    planes.append([])
            found.append((names[start], [plane for plane in planes if plane]))
    return found


class Minimal(unittest.TestCase):
    def test_edges(self):
        result = run("minimal")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        rows = [line.split() for line in result.stdout.splitlines()]
        self.assertEqual(rows, [["0", "1", "0", "0", "0", "-1", "0"]] * 2)


class Tour(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.result = run("tour")
        parts = re.split(r"^\d+\. (.*)$", cls.result.stdout, flags=re.MULTILINE)
        cls.sections = dict(zip(parts[1::2], parts[2::2]))

    def figures(self, section):
        return figures(self.sections[section])

    def named(self, section, name):
        return [planes for title, planes in self.figures(section) if title == name]

    def test_runs_alike_every_time(self):
        self.assertEqual((self.result.returncode, self.result.stderr), (0, ""))
        self.assertEqual(run("tour").stdout, self.result.stdout)

    def test_sections(self):
        self.assertEqual(list(self.sections), [
            "Cross-correlation and convolution", "Edge detection", "Learning a kernel", "Padding and stride",
            "Channels", "1x1 convolution", "Pooling", "What a kernel sees and what it costs", "LeNet"])

    def test_readable(self):
        for line in self.result.stdout.splitlines():
            self.assertLessEqual(len(line), 100, line)
            self.assertEqual(line, line.rstrip())

    def test_cross_correlation_and_convolution(self):
        self.assertEqual(self.figures("Cross-correlation and convolution"), [
            ("x", [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]), ("kernel", [[[0, 1], [2, 3]]]),
            ("y", [[[19, 25], [37, 43]]]),
            ("kernel", [[[0, 1], [2, 3]]]), ("x convolved with it", [[[5, 11], [23, 29]]]),
            ("flipped kernel", [[[3, 2], [1, 0]]]), ("x correlated with it", [[[5, 11], [23, 29]]])])

    def test_edge_detection(self):
        image = [[1, 1, 0, 0, 0, 0, 1, 1]] * 6
        on_its_side = [list(column) for column in zip(*image)]
        self.assertEqual(self.figures("Edge detection"), [
            ("x", [image]), ("kernel", [[[1, -1]]]), ("y", [[[0, 1, 0, 0, 0, -1, 0]] * 6]),
            ("x on its side", [on_its_side]), ("y", [[[0] * 5] * 8])])

    def test_learning(self):
        steps = [[float(number) for number in re.findall(r"-?\d+\.?\d*", line)]
                 for line in self.sections["Learning a kernel"].splitlines() if line.startswith("    step")]
        self.assertEqual([row[0] for row in steps], [0, 2, 4, 6, 8, 10, 0, 4, 8, 12, 16, 20])
        for run_of_steps in (steps[:6], steps[6:]):
            losses = [row[1] for row in run_of_steps]
            self.assertEqual(losses, sorted(losses, reverse=True))
            self.assertGreater(losses[0], 0.5)
        without_bias, with_bias = steps[5], steps[11]
        self.assertLess(without_bias[1], 0.13)
        self.assertLess(with_bias[1], 0.005)
        for row, tolerance in ((without_bias, 0.06), (with_bias, 0.02)):
            self.assertAlmostEqual(row[2], 1, delta=tolerance)
            self.assertAlmostEqual(row[3], -1, delta=tolerance)
        self.assertAlmostEqual(with_bias[4], 0, delta=0.01)

    def test_padding_and_stride(self):
        self.assertEqual(self.figures("Padding and stride")[2:], [
            ("padding 1", [[[0, 3, 8, 4], [9, 19, 25, 10], [21, 37, 43, 16], [6, 7, 8, 0]]]),
            ("padding 1, stride 3x2", [[[0, 8], [6, 8]]])])

    def test_channels(self):
        x = [[[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]]
        y = [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]]
        self.assertEqual(self.figures("Channels"), [
            ("x", x), ("kernel", [[[0, 1], [2, 3]], [[1, 2], [3, 4]]]), ("y", y[:1]),
            ("x", x), ("second kernel", [[[1, 2], [3, 4]], [[2, 3], [4, 5]]]), ("y", y)])

    def test_one_by_one(self):
        (_, (kernel,)), (_, (x,)), (_, (y,)) = self.figures("1x1 convolution")
        self.assertEqual((len(kernel), len(x), len(y), len(y[0])), (2, 3, 2, 9))
        for i in range(2):
            for j in range(9):  # each printed number is off by up to 0.005
                product = sum(kernel[i][k] * x[k][j] for k in range(3))
                self.assertAlmostEqual(y[i][j], product, delta=0.04)
        self.assertGreater(max(map(max, y)), 0.5)
        self.assertIn("product of the matrices: 0.000000\n", self.sections["1x1 convolution"])

    def test_pooling(self):
        x4 = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
        self.assertEqual(self.figures("Pooling"), [
            ("x", [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]),
            ("maximum, window 2, stride 1", [[[4, 5], [7, 8]]]),
            ("mean, window 2, stride 1", [[[2, 3], [5, 6]]]),
            ("x", [x4]), ("window 3", [[[10]]]), ("window 3, padding 1, stride 2", [[[5, 7], [13, 15]]]),
            ("window 2x3, padding 0x1", [[[5, 7], [13, 15]]]),
            ("x of two channels", [x4, [[number + 1 for number in row] for row in x4]]),
            ("window 3, padding 1, stride 2", [[[5, 7], [13, 15]], [[6, 8], [14, 16]]])])

    def test_sight_and_cost(self):
        text = self.sections["What a kernel sees and what it costs"]
        self.assertIn("two convolutions of 2x2 see 3x3\n", text)
        self.assertIn("two convolutions of 3x3 see 5x5\n", text)
        costs = re.findall(r"kernel +(\d+) +(\d+) parameters +(\d+) operations", text)
        self.assertEqual(costs, [
            ("3", "216", "4320000"), ("5", "600", "12000000"), ("7", "1176", "23520000"),
            ("9", "1944", "38880000"), ("11", "2904", "58080000")])

    def test_lenet(self):
        text = self.sections["LeNet"]
        self.assertEqual(re.findall(r"^    (\w+) +(\d+x\d+x\d+)$", text, flags=re.MULTILINE), [
            ("image", "1x28x28"),
            ("conv2d", "6x28x28"), ("sigmoid", "6x28x28"), ("avgpool2d", "6x14x14"),
            ("conv2d", "16x10x10"), ("sigmoid", "16x10x10"), ("avgpool2d", "16x5x5"), ("flatten", "400x1x1"),
            ("linear", "120x1x1"), ("sigmoid", "120x1x1"), ("linear", "84x1x1"), ("sigmoid", "84x1x1"),
            ("linear", "10x1x1")])
        self.assertIn("It has 61706 parameters, and an image costs 416520 ", text)


# Parameters, and the shapes after every convolution, pooling and linear layer.
NETWORKS = {
    "lenet": (61706, "6x28x28 6x14x14 16x10x10 16x5x5 120 84 10"),
    "lenet-max": (44426, "6x24x24 6x12x12 16x8x8 16x4x4 120 84 10"),
    "lenet-relu": (88166, "8x28x28 8x14x14 24x10x10 24x5x5 120 84 10"),
    "alexnet": (31310922, "96x54x54 96x26x26 256x26x26 256x12x12 384x12x12 384x12x12 384x12x12 256x12x12 "
                          "256x5x5 4096 10"),
    "vgg11": (128806154, "64x224x224 64x112x112 128x112x112 128x56x56 256x56x56 256x56x56 256x28x28 "
                         "512x28x28 512x28x28 512x14x14 512x14x14 512x14x14 512x7x7 4096 4096 10"),
    "nin": (1992166, "96x54x54 96x54x54 96x54x54 96x26x26 256x26x26 256x26x26 256x26x26 256x12x12 384x12x12 "
                     "384x12x12 384x12x12 384x5x5 10x5x5 10x5x5 10x5x5 10"),
    "convnet": (36039434, "64x34x34 64x16x16 384x18x18 384x8x8 384x6x6 256x4x4 4096 4096 10"),
}


def number(text):
    return int(text.replace(",", ""))


class Summary(unittest.TestCase):
    def rows(self, name):
        """[number, layer, output, parameters, macs, receptive field, memory] of each layer; the totals."""
        result = run("summary", name)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        for line in result.stdout.splitlines():
            self.assertLessEqual(len(line), 100, line)
        row = r"^ *(\d+)  (\S.*?\S) {2,}(\S+) +([\d,]+) +([\d,]+) +(\d+x\d+) +([\d,]+)$"
        layers = [list(match) for match in re.findall(row, result.stdout, re.MULTILINE)]
        total = re.search(r"^ +total +([\d,]+) +([\d,]+) +([\d,]+)$", result.stdout, re.MULTILINE)
        self.assertIsNotNone(total)
        return layers, [number(text) for text in total.groups()]

    def test_totals_and_shapes(self):
        for name, (parameters, shapes) in NETWORKS.items():
            with self.subTest(network=name):
                layers, total = self.rows(name)
                self.assertEqual([int(row[0]) for row in layers], list(range(len(layers))))
                self.assertEqual(total[0], parameters)
                for column, sum_of_column in zip((3, 4, 6), total):
                    self.assertEqual(sum(number(row[column]) for row in layers), sum_of_column)
                kinds = re.compile("conv2d|maxpool2d|avgpool2d|globalavgpool2d|linear")
                self.assertEqual([row[2] for row in layers if kinds.match(row[1])], shapes.split())

    def test_macs(self):
        self.assertEqual(self.rows("lenet")[1][1], 416520)
        for name in NETWORKS:
            for row in self.rows(name)[0]:
                channels, height, width = ([int(size) for size in row[2].split("x")] + [1, 1])[:3]
                has_weights = row[1].startswith(("conv2d", "linear"))  # each is used at every place
                weights = number(row[3]) - channels if has_weights else 0
                self.assertEqual(number(row[4]), weights * height * width, (name, row))

    def test_rows_of_lenet(self):
        layers, _ = self.rows("lenet")
        self.assertEqual(layers[0], ["0", "conv2d 6 k5 p2", "6x28x28", "156", "117,600", "5x5", "19,440"])
        self.assertEqual(layers[2][1:], ["avgpool2d k2", "6x14x14", "0", "0", "6x6", "4,704"])
        self.assertEqual(layers[3][1:], ["conv2d 16 k5", "16x10x10", "2,416", "240,000", "14x14", "16,064"])
        self.assertEqual(layers[7][1:5], ["linear 120", "120", "48,120", "48,000"])

    def test_describes_layers(self):
        layers, _ = self.rows("alexnet")
        described = [row[1] for row in layers]
        for layer in ("conv2d 96 k11 s4 p1", "maxpool2d k3 s2", "dropout 0.5", "flatten", "linear 4096"):
            self.assertIn(layer, described)

    def test_lists_names(self):
        for arguments in ([], ["--help"]):
            result = run("summary", *arguments)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            names = re.findall(r"^  (\S+) {2,}\S", result.stdout, re.MULTILINE)
            self.assertEqual(names, list(NETWORKS))

    def test_wrong_usage(self):
        wrong = ((["resnet"], "resnet"), ([""], '""'), (["lenet", "nin"], "2"), (["-h"], "-h"))
        for arguments, word in wrong:
            with self.subTest(arguments=arguments):
                result = run("summary", *arguments)
                self.assertEqual((result.returncode, result.stdout), (2, ""))
                self.assertRegex(result.stderr, r"\Asummary: [^\n]+\.\n\Z")
                self.assertIn(word, result.stderr)


if __name__ == "__main__":
    unittest.main()
