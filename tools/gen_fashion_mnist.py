#!/usr/bin/env python3
"""Fill a folder with Fashion-MNIST: the real set where it can be had, a synthetic stand-in where it cannot.

    python3 tools/gen_fashion_mnist.py                      fill data/ with the best that can be had
    python3 tools/gen_fashion_mnist.py --source real        the real set or a failure
    python3 tools/gen_fashion_mnist.py --source synthetic   the stand-in: the same bytes everywhere for the same --seed

The folder then holds four uncompressed IDX files and SOURCE, a text file that says what they are:

    real Fashion-MNIST, verified by SHA-256              synthetic garments in the shape of Fashion-MNIST
    from: /usr/share/datasets/fashion-mnist              from: gen_fashion_mnist.py
                                                         seed: 1

Needs Python 3.7 and nothing else. Exit status: 0 done, 1 could not be done (one sentence on stderr), 2 wrong usage.
"""
import argparse
import contextlib
import functools
import gzip
import hashlib
import http.client
import io
import os
import random
import signal
import struct
import sys
import time
import urllib.request
import zlib
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

SIDE = 28
PIXELS = SIDE * SIDE
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DEFAULT_SEED = 1

Split = namedtuple("Split", "prefix count")
SPLITS = (Split("train", 60000), Split("t10k", 10000))

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

# Where other programs leave the set: Debian's package dataset-fashion-mnist, then PyTorch, then Keras.
USUAL_PLACES = (
    "/usr/share/datasets/fashion-mnist",
    "data/FashionMNIST/raw",
    "../data/FashionMNIST/raw",
    "~/data/FashionMNIST/raw",
    "~/.cache/torch/FashionMNIST/raw",
    "~/.cache/torch/datasets/FashionMNIST/raw",
    "~/.pytorch/F_MNIST_data/FashionMNIST/raw",
    "~/.keras/datasets/fashion-mnist",
)
DOWNLOADS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
# A server that trickles never trips a socket's timeout, so a file must also be whole within this many timeouts.
SLOWEST_DOWNLOAD = 30


class DataError(Exception):
    """Something went wrong that one sentence explains."""


def say(text):
    print("gen_fashion_mnist: " + text, file=sys.stderr, flush=True)


def reason(error):
    """An OSError, gzip or HTTP error as the words that follow 'name: '."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Progress:
    """One line on stderr: rewritten in place on a terminal, written once elsewhere so that logs stay short."""

    def __init__(self, task, total):
        self.task, self.total, self.live, self.shown = task, total, sys.stderr.isatty(), 0.0
        if not self.live:
            say(task)

    def __enter__(self):
        return self

    def at(self, done):
        now = time.monotonic()
        if self.live and now - self.shown > 0.1:
            self.shown = now
            sys.stderr.write("\rgen_fashion_mnist: %s: %d%%" % (self.task, 100 * done // self.total))
            sys.stderr.flush()

    def __exit__(self, *_):
        if self.live:
            sys.stderr.write("\n")


# ---- the IDX files ---------------------------------------------------------------------------------------------------

def images_name(prefix):
    return prefix + "-images-idx3-ubyte"


def labels_name(prefix):
    return prefix + "-labels-idx1-ubyte"


def idx_headers():
    """{file name: (its header, its size in bytes)}"""
    table = {}
    for prefix, count in SPLITS:
        table[images_name(prefix)] = struct.pack(">IIII", 0x803, count, SIDE, SIDE), 16 + count * PIXELS
        table[labels_name(prefix)] = struct.pack(">II", 0x801, count), 8 + count
    return table


def check_sum(name, content):
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise DataError("its bytes are not those of the real set (SHA-256 differs)")


def read_exactly(stream, size):
    """The `size` bytes that a stream should hold; however many it does hold, only one more is read."""
    content = stream.read(size + 1)
    if len(content) > size:
        raise DataError("longer than the %d bytes it should have" % size)
    if len(content) < size:
        raise DataError("%d bytes where there should be %d" % (len(content), size))
    return content


def unpack(stream, size):
    try:
        with gzip.GzipFile(fileobj=stream) as unpacked:
            return read_exactly(unpacked, size)
    except EOFError:
        raise DataError("a truncated gzip file")
    except (OSError, zlib.error) as error:
        raise DataError("not a sound gzip file (%s)" % reason(error))


def read_file(path, size):
    if not os.path.isfile(path):
        raise DataError("not a regular file" if os.path.lexists(path) else "no such file")
    with open(path, "rb") as stream:
        return unpack(stream, size) if path.endswith(".gz") else read_exactly(stream, size)


# ---- finding the real set --------------------------------------------------------------------------------------------

def read_real_file(folder, name, size):
    """One verified file of the real set and its path; the gzipped copy is tried where the plain one is bad or missing."""
    problem = None
    for path in (os.path.join(folder, name), os.path.join(folder, name + ".gz")):
        if os.path.lexists(path):
            try:
                content = read_file(path, size)
                check_sum(name, content)
                return content, path
            except (OSError, DataError) as error:
                problem = problem or DataError("%s: %s" % (path, reason(error)))
    raise problem or DataError("%s: no such file, gzipped or not" % os.path.join(folder, name))


def read_real_set(folder):
    """({name: content}, whether all four lie there uncompressed)"""
    files, plain = {}, True
    for name, (_, size) in idx_headers().items():
        files[name], path = read_real_file(folder, name, size)
        plain = plain and not path.endswith(".gz")
    return files, plain


def holds_any_file(folder):
    return any(os.path.lexists(os.path.join(folder, name + end)) for name in idx_headers() for end in ("", ".gz"))


def find_real_set(wanted, usual):
    """(files, folder) from the first folder with a sound set, or None. A `wanted` folder is named even if it is empty."""
    for folder in wanted + usual:
        if folder in wanted and not os.path.isdir(folder):
            say("%s: no such folder; trying elsewhere" % folder)
        elif folder in wanted or holds_any_file(folder):
            try:
                return read_real_set(folder)[0], folder
            except DataError as error:
                say("%s; trying elsewhere" % error)
    return None


def download_file(url, size, timeout):
    """The compressed bytes behind `url`, refused when they are more than `size` plus what gzip can add."""
    limit, deadline, parts, got = size + size // 100 + 4096, time.monotonic() + SLOWEST_DOWNLOAD * timeout, [], 0
    request = urllib.request.Request(url, headers={"User-Agent": "gen_fashion_mnist"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        length = response.headers.get("Content-Length") or ""
        with Progress("downloading " + url, int(length) if length.isdigit() and int(length) else size) as progress:
            while True:
                part = response.read1(1 << 16)
                if not part:
                    return b"".join(parts)
                parts.append(part)
                got += len(part)
                progress.at(min(got, progress.total))
                if got > limit:
                    raise DataError("more bytes than the file can have")
                if time.monotonic() > deadline:
                    raise DataError("not whole after %g seconds" % (SLOWEST_DOWNLOAD * timeout))


def download_set(base, timeout):
    files = {}
    for name, (_, size) in idx_headers().items():
        url = base + name + ".gz"
        try:
            files[name] = unpack(io.BytesIO(download_file(url, size, timeout)), size)
            check_sum(name, files[name])
        except (OSError, ValueError, http.client.HTTPException, DataError) as error:
            raise DataError("%s: %s" % (url, reason(error)))
    return files


# ---- synthesis: dice, fabrics, polygons ------------------------------------------------------------------------------
#
# Integers only, so that no rounding can differ between machines. Garments are designed in tenths of a pixel, x from the
# middle of the image and y from its top; Art.polygon poses them and fills them in sixteenths of a pixel.

class Dice:
    """Random integers from a seed; getrandbits has given the same bits in every Python 3."""

    def __init__(self, seed):
        self.bits = random.Random(seed).getrandbits

    def between(self, low, high):
        return low + (self.bits(16) * (high - low + 1) >> 16)

    def of(self, span):
        return self.between(span[0], span[1])

    def chance(self, percent):
        return self.bits(16) * 100 >> 16 < percent

    def pick(self, choices):
        """One of (choice, weight) pairs."""
        at = self.between(1, sum(weight for _, weight in choices))
        for choice, weight in choices:
            at -= weight
            if at <= 0:
                return choice
        raise AssertionError


def blurred(values, step, times):
    for _ in range(times):
        values = [(values[i - step] + 2 * v + values[(i + step) % len(values)]) >> 2 for i, v in enumerate(values)]
    return values


def stretched(values):
    low, high = min(values), max(values)
    return bytes((v - low) * 255 // (high - low) for v in values)


class Tables:
    """What every image draws from: long strips of 28-pixel rows, of which a fabric cuts out a piece anywhere."""
    ROWS = 128

    def __init__(self):
        dice = Dice(28)
        size = self.ROWS * SIDE
        grain = [dice.between(0, 255) for _ in range(size)]
        self.noise = bytes(grain)
        self.folds = stretched(blurred(blurred([16 * v for v in grain], SIDE, 24), 1, 6))
        blots = stretched(blurred(blurred([16 * v for v in reversed(grain)], SIDE, 3), 1, 3))
        rows = [[(r, c) for c in range(SIDE)] for r in range(self.ROWS)]

        def pattern(inside):
            return bytes(255 if inside(r, c) else 0 for row in rows for r, c in row)

        self.patterns = (
            pattern(lambda r, c: r % 4 < 2), pattern(lambda r, c: r % 8 < 3), pattern(lambda r, c: c % 4 < 2),
            pattern(lambda r, c: c % 7 < 3), pattern(lambda r, c: r % 7 < 2 or c % 7 < 2),
            pattern(lambda r, c: (r + c) % 4 < 2), pattern(lambda r, c: r % 4 == 0 and c % 4 == 2 * (r & 4) // 4),
            bytes(255 if v > 140 else 0 for v in blots), blots, self.noise)
        self.scale = [bytes(v * k // 255 for v in range(256)) for k in range(256)]


@functools.lru_cache(maxsize=None)
def tables():
    """Made at the first image, once in each process."""
    return Tables()


ONES = int.from_bytes(b"\1" * PIXELS, "little")


def cut(dice, strip, depth):
    """A piece of a strip, its greys scaled to 0 to `depth`, as one long integer: two such are added pixel by pixel with +."""
    start = dice.between(0, len(strip) - PIXELS)
    return int.from_bytes(strip[start:start + PIXELS].translate(tables().scale[depth]), "little")


def weave(dice, light, patterned):
    """A fabric, a grey for each pixel of an image: folds, grain and perhaps a pattern, no sum of which exceeds `light`."""
    folds, grain = light * dice.between(4, 20) // 100, light * dice.between(2, 8) // 100
    room = light - folds - grain
    contrast = room * dice.between(12, 60) // 100 if patterned else 0
    total = (room - contrast) * ONES + cut(dice, tables().folds, folds) + cut(dice, tables().noise, grain)
    if contrast:
        total += cut(dice, tables().patterns[dice.between(0, len(tables().patterns) - 1)], contrast)
    return total.to_bytes(PIXELS, "little")


def shaded(fabric, percent):
    return fabric.translate(tables().scale[255 * percent // 100])


def fill_polygon(canvas, points, fabric):
    """Copies `fabric` where the polygon is (even-odd rule): a row of pixels is inside as its middle line is."""
    crossings = [[] for _ in range(SIDE)]
    x0, y0 = points[-1]
    for x1, y1 in points:
        if y0 != y1:
            xa, ya, xb, yb = (x0, y0, x1, y1) if y0 < y1 else (x1, y1, x0, y0)
            first, end = max(0, (ya + 7) >> 4), min(SIDE, (yb + 7) >> 4)
            slope = ((xb - xa) << 12) // (yb - ya)
            x = (xa << 12) + slope * (16 * first + 8 - ya)
            for row in range(first, end):
                crossings[row].append(x >> 12)
                x += slope << 4
        x0, y0 = x1, y1
    for row, xs in enumerate(crossings):
        if xs:
            xs.sort()
            for left, right in zip(xs[::2], xs[1::2]):
                fill_span(canvas, row * SIDE, max(left, 0), min(right, 16 * SIDE), fabric)


def fill_span(canvas, row, left, right, fabric):
    """Fills [left, right) of a row, in sixteenths; the pixels at both ends are mixed by how much of them is covered."""
    if left >= right:
        return
    first, last = row + (left >> 4), row + ((right - 1) >> 4)
    if first == last:
        blend(canvas, first, fabric, right - left)
    else:
        canvas[first + 1:last] = fabric[first + 1:last]
        blend(canvas, first, fabric, 16 - (left & 15))
        blend(canvas, last, fabric, ((right - 1) & 15) + 1)


def blend(canvas, at, fabric, cover):
    canvas[at] = (canvas[at] * (16 - cover) + fabric[at] * cover) >> 4


class Art:
    """One image being drawn, in a random pose."""

    def __init__(self, dice):
        self.dice, self.canvas = dice, bytearray(PIXELS)
        # In 1024ths: 1638 turns tenths of a pixel into sixteenths as they are.
        self.scale_x, self.scale_y = dice.between(1760, 1920), dice.between(1640, 1750)
        self.skew, self.turn = dice.between(-80, 80), dice.between(-60, 60)
        self.move_x, self.move_y = dice.between(-10, 10), dice.between(-10, 10)
        light = dice.between(200, 255) if dice.chance(84) else dice.between(80, 200)
        self.fabric = weave(dice, light, dice.chance(26))
        other = (light + dice.between(70, 170)) % 256
        self.trim = weave(dice, max(other, 20), False)

    def polygon(self, points, fabric=None):
        middle, posed = 16 * SIDE // 2, []
        for x, y in points:
            y -= 10 * SIDE // 2
            posed.append(((x * self.scale_x + y * self.skew >> 10) + middle + self.move_x,
                          (y * self.scale_y + x * self.turn >> 10) + middle + self.move_y))
        fill_polygon(self.canvas, posed, fabric or self.fabric)

    def mirrored(self, half, fabric=None):
        """A polygon given by its right half, from top to bottom."""
        self.polygon(half + [(-x, y) for x, y in reversed(half)], fabric)

    def both_sides(self, points, fabric=None):
        self.polygon(points, fabric)
        self.polygon([(-x, y) for x, y in points], fabric)

    def box(self, left, top, right, bottom, fabric=None):
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fabric)

    def stroke(self, path, width, fabric=None):
        """A line of a given width through the points, thickened across its main direction."""
        for (x0, y0), (x1, y1) in zip(path, path[1:]):
            dx, dy = (0, width // 2) if abs(x1 - x0) > abs(y1 - y0) else (width // 2, 0)
            self.polygon([(x0 - dx, y0 - dy), (x1 - dx, y1 - dy), (x1 + dx, y1 + dy), (x0 + dx, y0 + dy)], fabric)


# ---- synthesis: garments ---------------------------------------------------------------------------------------------

# Garments of the upper body: ranges of sizes, weights of choices, and percents of the details that some of them have.
# The ranges overlap, as shirts, T-shirts, pullovers and coats do.
Top = namedtuple("Top", "shoulder chest waist hem length neck_depth collar hood print sleeve front")
TOPS = {
    "T-shirt/top": Top((58, 76), (56, 70), (54, 68), (56, 74), (238, 272), (8, 32), 2, 0, 35,
                       (("none", 10), ("short", 82), ("half", 4), ("long", 4)), (("plain", 97), ("placket", 3))),
    "Pullover": Top((62, 78), (62, 76), (60, 74), (58, 74), (226, 258), (6, 30), 4, 8, 24,
                    (("short", 1), ("half", 4), ("long", 95)), (("plain", 95), ("zip", 4), ("placket", 1))),
    "Dress": Top((34, 52), (34, 48), (28, 44), (38, 94), (264, 276), (8, 44), 3, 0, 8,
                 (("none", 54), ("short", 24), ("half", 10), ("long", 12)), (("plain", 94), ("placket", 6))),
    "Coat": Top((60, 76), (58, 74), (56, 74), (62, 88), (256, 278), (10, 44), 55, 24, 2,
                (("half", 2), ("long", 98)), (("plain", 10), ("zip", 68), ("placket", 22))),
    "Shirt": Top((52, 70), (50, 66), (42, 62), (48, 74), (244, 274), (10, 50), 60, 1, 4,
                 (("none", 6), ("short", 20), ("half", 34), ("long", 40)), (("plain", 28), ("placket", 68), ("zip", 4))),
}


def draw_top(art, name):
    dice, kind = art.dice, TOPS[name]
    shoulder, chest, waist, hem = dice.of(kind.shoulder), dice.of(kind.chest), dice.of(kind.waist), dice.of(kind.hem)
    neck, top, bottom = dice.between(18, 32), dice.between(10, 24), dice.of(kind.length)
    slope, armpit = top + dice.between(8, 20), top + dice.between(56, 78)
    dip = top + dice.of(kind.neck_depth)
    draw_sleeves(art, dice.pick(kind.sleeve), shoulder, slope, chest, armpit, bottom)
    art.mirrored([(neck // 2, dip - 4), (neck, top), (shoulder, slope), (chest, armpit),
                  (waist, (armpit + bottom) // 2 + dice.between(-15, 15)), (hem, bottom)])
    if dice.chance(kind.hood):
        art.mirrored([(neck - 6, top - 8), (neck + 10, top + 14), (neck - 4, top + 44)], shaded(art.fabric, 82))
        art.mirrored([(neck - 16, top + 6), (4, top + 44)], shaded(art.fabric, 40))
    elif dice.chance(kind.collar):
        art.both_sides([(neck, top - 4), (neck + 10, top + 12), (8, dip + 26), (4, dip + 6)], shaded(art.fabric, 70))
    draw_front(art, dice.pick(kind.front), dip, bottom)
    if dice.chance(kind.print):
        half, at = dice.between(12, 36), dice.between(75, 120)
        art.box(-half, at, half, at + dice.between(12, 60), art.trim)


def draw_sleeves(art, sleeve, shoulder, slope, chest, armpit, bottom):
    dice = art.dice
    if sleeve == "none":
        return
    if sleeve == "short":
        reach, out, cuff = dice.between(42, 72), dice.between(18, 40), dice.between(26, 40)
    elif sleeve == "half":
        reach, out, cuff = dice.between(85, 140), dice.between(26, 46), dice.between(22, 36)
    else:
        reach, out, cuff = bottom - slope + dice.between(-45, 0), dice.between(20, 48), dice.between(22, 36)
    end = slope + reach
    art.both_sides([(shoulder - 14, slope - 2), (shoulder, slope), (shoulder + out * 2 // 3, slope + reach // 2),
                    (shoulder + out, end), (shoulder + out - cuff, end + 4), (chest, armpit + 6)],
                   shaded(art.fabric, dice.between(76, 100)))


def draw_front(art, front, top, bottom):
    dice = art.dice
    if front == "zip":
        art.box(-5, top, 5, bottom, shaded(art.fabric, dice.between(15, 50)))
        if dice.chance(55):
            art.mirrored([(3, top), (dice.between(8, 26), bottom)], shaded(art.fabric, dice.between(5, 45)))
    elif front == "placket":
        art.box(-6, top, 6, bottom, shaded(art.fabric, dice.between(60, 88)))
        for y in range(top + 12, bottom - 10, 32):
            art.box(-5, y, 5, y + 10, art.trim)


def draw_trouser(art, _):
    dice = art.dice
    waist, hip, crotch = dice.between(36, 52), dice.between(44, 58), dice.between(70, 125)
    top, bottom = dice.between(6, 20), dice.between(255, 276)
    outside = dice.between(34, 64)
    inside = min(dice.between(6, 22), outside - 22)
    knee = (crotch + bottom) // 2
    art.mirrored([(waist, top), (hip, top + dice.between(45, 70)), ((hip + outside) // 2, knee), (outside, bottom),
                  (inside, bottom), (inside * 2 // 3 + 2, knee), (dice.between(0, 3), crotch)])
    art.mirrored([(waist, top), (waist + 2, top + 12)], shaded(art.fabric, dice.between(45, 90)))
    if dice.chance(25):
        art.both_sides([(hip - 14, top + 50), (hip - 6, top + 50), (outside - 12, bottom), (outside - 20, bottom)], art.trim)


def draw_sandal(art, _):
    dice = art.dice
    high = dice.chance(38)
    heel = dice.between(55, 110) if high else dice.between(0, 24)
    ground = dice.between(205, 250) if high else dice.between(170, 200)
    thick = dice.between(14, 26)
    sole = shaded(art.fabric, dice.between(60, 100)) if dice.chance(60) else art.trim
    back, front = dice.between(95, 125), -dice.between(105, 128)
    art.polygon([(front, ground - thick), (-50, ground - thick), (back, ground - heel - thick), (back, ground - heel),
                 (-40, ground), (front, ground)], sole)
    if dice.chance(45 if high else 70):
        art.polygon([(-40, ground), (back, ground - heel), (back - 4, ground)], sole)
    elif high:
        art.polygon([(back - 30, ground - heel), (back, ground - heel), (back - 4, ground), (back - 16, ground)], sole)
    for _ in range(dice.between(2, 4)):
        x = dice.between(-100, 50)
        low = ground - thick - max(0, (x + 50) * heel // (back + 50))
        rise, width = dice.between(24, 62), dice.between(14, 32)
        art.stroke([(x, low), (x + dice.between(-10, 50), low - rise), (x + dice.between(40, 75), low - heel // 3)], width)
    if dice.chance(55):
        ankle = ground - heel - thick - dice.between(35, 75)
        art.stroke([(back - 6, ground - heel - thick), (back - 12, ankle), (dice.between(10, 50), ankle + 10)],
                   dice.between(9, 18))


def draw_shoe(art, ground, shaft, collar, heel, thick):
    """The outline that sneakers and boots share: toe to the left, `shaft` from the ground to the top, `collar` its front edge."""
    dice = art.dice
    toe, back, top = -dice.between(112, 130), dice.between(102, 124), ground - shaft
    instep = min(dice.between(62, 88), shaft * 7 // 10)
    art.polygon([(toe, ground - 12), (toe + 6, ground - dice.between(26, 40)), (toe + 42, ground - dice.between(40, 58)),
                 (collar - 36, ground - instep), (collar, top + dice.between(0, 14)), (back - dice.between(0, 20), top),
                 (back - 4, ground - 50), (back, ground - 6)])
    sole = art.trim if dice.chance(50) else shaded(art.fabric, dice.between(35, 95))
    art.polygon([(toe, ground - thick), (back, ground - thick), (back, ground + heel), (back - 56, ground + heel),
                 (back - 64, ground), (toe + 6, ground)], sole)
    return top


def draw_sneaker(art, _):
    dice = art.dice
    shaft = dice.between(84, 120) if dice.chance(82) else dice.between(105, 165)
    ground, collar = 182 + shaft // 5 + dice.between(-8, 8), dice.between(0, 46)
    top = draw_shoe(art, ground, shaft, collar, 0, dice.between(12, 28))
    if dice.chance(65):
        for i in range(3):
            art.stroke([(collar - 62 + 18 * i, ground - 46 - 9 * i), (collar - 40 + 18 * i, ground - 34 - 6 * i)], 9, art.trim)
    if dice.chance(45):
        for x in range(collar - 10, collar + dice.between(5, 40), 22):
            art.stroke([(x, ground - 22), (x + 26, top + 24)], 10, art.trim)


def draw_boot(art, _):
    dice = art.dice
    shaft = dice.between(155, 235) if dice.chance(82) else dice.between(105, 160)
    ground, heel = 205 + shaft // 5 + dice.between(-8, 8), dice.between(0, 22)
    collar = dice.between(-18, 36)
    top = draw_shoe(art, ground, shaft, collar, heel, dice.between(8, 22))
    if dice.chance(35):
        art.polygon([(collar + 26, top + 14), (collar + 52, top + 14), (collar + 40, top + 70)],
                    shaded(art.fabric, dice.between(30, 80)))
    if dice.chance(30):
        for y in range(top + 16, ground - 60, 20):
            art.stroke([(collar - 8, y + 4), (collar + 18, y)], 9, art.trim)


# A quarter of a circle, in 256ths.
ARC = ((256, 0), (237, 98), (181, 181), (98, 237), (0, 256))


def draw_bag(art, _):
    dice = art.dice
    top_half, bottom_half = dice.between(76, 118), dice.between(84, 126)
    handle = dice.pick((("none", 22), ("arc", 58), ("strap", 20)))
    top = dice.between(35, 90) if handle == "none" else dice.between(80, 140)
    bottom = dice.between(212, 268)
    if handle == "arc":
        wide, rise, width = dice.between(34, top_half - 8), dice.between(40, top - 14), dice.between(9, 18)
        outer = [(wide * c >> 8, top - (rise * s >> 8)) for c, s in reversed(ARC)]
        inner = [((wide - width) * c >> 8, top - ((rise - width) * s >> 8)) for c, s in ARC]
        art.both_sides(outer + inner, shaded(art.fabric, dice.between(55, 95)))
    elif handle == "strap":
        peak = dice.between(-30, 30)
        art.stroke([(-top_half, top + 8), (peak, dice.between(10, 30)), (top_half, top + 8)], dice.between(9, 16))
    art.mirrored([(top_half, top), (top_half + 3, top + 12), (bottom_half, bottom - 10), (bottom_half - 8, bottom)])
    if dice.chance(50):
        flap = top + (bottom - top) * dice.between(25, 70) // 100
        art.mirrored([(top_half, top), (top_half - dice.between(0, 50), flap)], shaded(art.fabric, dice.between(60, 90)))
    if dice.chance(45):
        at = dice.between(top + 20, bottom - 40)
        art.box(-10, at, 10, at + 18, art.trim)


DRAW = {"Trouser": draw_trouser, "Sandal": draw_sandal, "Sneaker": draw_sneaker, "Bag": draw_bag, "Ankle boot": draw_boot}

# Real labels are not always what the eye would say: so many percent of a class are drawn as another.
LOOKALIKES = {
    "T-shirt/top": (("Shirt", 5), ("Dress", 1)),
    "Trouser": (("Dress", 1),),
    "Pullover": (("Coat", 3), ("Shirt", 4)),
    "Dress": (("T-shirt/top", 1), ("Coat", 1), ("Shirt", 1)),
    "Coat": (("Pullover", 4), ("Shirt", 3)),
    "Sandal": (("Sneaker", 2),),
    "Shirt": (("T-shirt/top", 6), ("Pullover", 4), ("Coat", 4), ("Dress", 1)),
    "Sneaker": (("Sandal", 1), ("Ankle boot", 2)),
    "Bag": (("T-shirt/top", 1),),
    "Ankle boot": (("Sneaker", 2), ("Sandal", 1)),
}


def draw_image(seed, split, index, label):
    """The 784 bytes of one image: they depend on nothing but the arguments."""
    dice = Dice(((seed * len(SPLITS) + split) << 32) + index)
    others = LOOKALIKES[CLASSES[label]]
    name = dice.pick(others + ((CLASSES[label], 100 - sum(percent for _, percent in others)),))
    art = Art(dice)
    DRAW.get(name, draw_top)(art, name)
    return bytes(art.canvas)


def draw_labels(seed, split, count):
    """As many of each class as of any other, shuffled."""
    labels = bytearray(i % len(CLASSES) for i in range(count))
    dice = Dice(((seed * len(SPLITS) + split) << 32) + (1 << 31))
    for i in range(count - 1, 0, -1):
        j = dice.bits(32) * (i + 1) >> 32
        labels[i], labels[j] = labels[j], labels[i]
    return bytes(labels)


def draw_chunk(work):
    seed, split, start, labels = work
    return b"".join(draw_image(seed, split, start + i, label) for i, label in enumerate(labels))


def usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker():
    """Leaves Ctrl-C to the parent, which then stops handing out work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def draw_chunks(work, processes):
    """The chunks in order. Where processes cannot be had (no semaphores, no fork), this one draws them all."""
    drawn, pool = map(draw_chunk, work), contextlib.ExitStack()
    if processes > 1:
        try:
            pool = ProcessPoolExecutor(processes, initializer=start_worker)
            drawn = pool.map(draw_chunk, work)
        except (ImportError, NotImplementedError, OSError):
            pass
    with pool:
        yield from drawn


def synthesise(seed, processes=None, chunk=500):
    """{name: content} of the whole synthetic set: the same bytes for the same seed, whatever the number of processes."""
    headers, files = idx_headers(), {}
    total, done = sum(split.count for split in SPLITS), 0
    with Progress("drawing %d synthetic images" % total, total) as progress:
        for number, (prefix, count) in enumerate(SPLITS):
            labels, images = draw_labels(seed, number, count), bytearray(headers[images_name(prefix)][0])
            work = [(seed, number, start, labels[start:start + chunk]) for start in range(0, count, chunk)]
            try:
                with contextlib.closing(draw_chunks(work, processes or min(usable_cores(), 16))) as chunks:
                    for drawn in chunks:
                        images += drawn
                        done += len(drawn) // PIXELS
                        progress.at(done)
            except BrokenProcessPool:
                raise DataError("a drawing process was killed (out of memory?); try again with more memory free")
            files[images_name(prefix)] = bytes(images)
            files[labels_name(prefix)] = headers[labels_name(prefix)][0] + labels
    return files


# ---- the output folder -----------------------------------------------------------------------------------------------

def real_source(origin):
    return "real Fashion-MNIST, verified by SHA-256\nfrom: %s\n" % " ".join(origin.split())


def synthetic_source(seed):
    return "synthetic garments in the shape of Fashion-MNIST\nfrom: gen_fashion_mnist.py\nseed: %d\n" % seed


def read_source(out):
    """(first word, seed or None) of the SOURCE in `out`; ("", None) where there is none that makes sense."""
    try:
        with open(os.path.join(out, "SOURCE"), encoding="utf-8", errors="replace") as file:
            lines = file.read(4096).split("\n")
    except OSError:
        return "", None
    seeds = [line[5:].strip() for line in lines if line.startswith("seed:")]
    return (lines[0].split() or [""])[0], int(seeds[0]) if seeds and seeds[0].isdecimal() else None


def check_synthetic_set(out):
    """Sizes, headers and labels of a set that SOURCE declares synthetic."""
    for name, (header, size) in idx_headers().items():
        path = os.path.join(out, name)
        try:
            content = read_file(path, size)
        except (OSError, DataError) as error:
            raise DataError("%s: %s" % (path, reason(error)))
        if not content.startswith(header):
            raise DataError("%s: its header is not that of %s" % (path, name))
        if "labels" in name and max(content[len(header):]) >= len(CLASSES):
            raise DataError("%s: a label is above %d" % (path, len(CLASSES) - 1))


def check_folder(out):
    """Makes `out`, before the long work rather than after it, and finds what would stop the files from being put there."""
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        raise DataError("cannot use %s as the output folder: %s" % (out, reason(error)))
    for name in list(idx_headers()) + ["SOURCE"]:
        if os.path.isdir(os.path.join(out, name)):
            raise DataError("cannot write %s: a folder of that name is in the way" % os.path.join(out, name))


def write_whole(path, content):
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def install(out, files, source):
    """Puts the files and SOURCE into `out`. SOURCE goes first and comes back last, so it never describes other files."""
    check_folder(out)
    contents = dict(files, SOURCE=source.encode("utf-8", "backslashreplace"))
    final = {name: os.path.join(out, name) for name in contents}
    temporary = {name: "%s.%d.tmp" % (path, os.getpid()) for name, path in final.items()}
    try:
        for name, content in contents.items():
            write_whole(temporary[name], content)
        if os.path.lexists(final["SOURCE"]):
            os.remove(final["SOURCE"])
        for name in contents:
            os.replace(temporary[name], final[name])
    except OSError as error:
        raise DataError("cannot write to %s: %s" % (out, reason(error)))
    finally:
        for path in temporary.values():
            if os.path.lexists(path):
                os.remove(path)


# ---- the sources in turn ---------------------------------------------------------------------------------------------

def keep_real(out):
    """A summary if the real set is in `out` already; SOURCE is put right where it says otherwise."""
    if not holds_any_file(out):
        return None
    declared = read_source(out)[0]
    try:
        files, plain = read_real_set(out)
    except DataError as error:
        if declared != "synthetic":
            say("%s; trying elsewhere" % error)
        return None
    if not plain or declared != "real":
        install(out, {} if plain else files, real_source("files that were already there"))
    return "%s: the real Fashion-MNIST set was already there (verified by SHA-256)" % out


def keep_synthetic(out, seed):
    """A summary if a whole synthetic set is in `out` already, of this seed unless `seed` is None."""
    kind, found = read_source(out)
    if kind != "synthetic" or (seed is not None and seed != found):
        return None
    try:
        check_synthetic_set(out)
    except DataError as error:
        say("%s; trying elsewhere" % error)
        return None
    warn_synthetic()
    return "%s: a synthetic set was already there (seed %s)" % (out, "unknown" if found is None else found)


def warn_synthetic():
    say("WARNING: this is a SYNTHETIC set, NOT the real Fashion-MNIST: no accuracy on it compares with a published one")


def wanted_folders(args):
    return [os.path.expanduser(folder) for folder in (args.from_dir, os.environ.get("FASHION_MNIST_DIR")) if folder]


def get_real(args):
    """A summary once the real set has been copied or downloaded, or None."""
    found = find_real_set(wanted_folders(args), [os.path.expanduser(place) for place in USUAL_PLACES])
    for base in () if found or args.no_download else DOWNLOADS:
        try:
            found = download_set(base, args.timeout), base
            break
        except DataError as error:
            say("%s; trying elsewhere" % error)
    if not found:
        return None
    files, origin = found
    install(args.out, files, real_source(origin))
    return "%s: the real Fashion-MNIST set from %s (verified by SHA-256)" % (args.out, origin)


def get_synthetic(out, seed):
    check_folder(out)
    warn_synthetic()
    install(out, synthesise(seed), synthetic_source(seed))
    return "%s: a synthetic set (seed %d), not the real Fashion-MNIST" % (out, seed)


def fill(args):
    seed = DEFAULT_SEED if args.seed is None else args.seed
    if args.source == "synthetic":
        return get_synthetic(args.out, seed)
    summary = keep_real(args.out)
    if not summary and args.source == "auto" and not args.from_dir:
        summary = keep_synthetic(args.out, args.seed)
    summary = summary or get_real(args)
    if summary or args.source == "auto":
        return summary or get_synthetic(args.out, seed)
    tried = [args.out] + wanted_folders(args) + ["%d usual folders" % len(USUAL_PLACES)]
    raise DataError("the real Fashion-MNIST set was not found (tried %s, %s): install Debian's dataset-fashion-mnist, or name a "
                    "folder that holds the four files with --from" %
                    (", ".join(tried), "no download as --no-download was given" if args.no_download
                     else "%d downloads" % len(DOWNLOADS)))


HELP = """
With --source auto, the first of these that works is used; what is wrong with a damaged one is said on stderr:
  1. sound files already in the output folder, real or synthetic (synthetic does not count with --from)
  2. the folder named by --from, then the one named by the environment variable FASHION_MNIST_DIR
  3. where Debian's package dataset-fashion-mnist, PyTorch and Keras put the set
  4. a download
  5. a synthetic set: 60,000 + 10,000 drawings of garments in the same ten classes, sizes and files. It is for
     trying programs out, and its accuracies say nothing about the real set.
--source real stops after 4 and ignores a synthetic set; --source synthetic draws a new set whatever is there.
Folders may hold the files gzipped or not. Real files are used only if their SHA-256 is right.

exit status: 0 done, 1 could not be done (one sentence on stderr), 2 wrong usage
"""


def seed_number(text):
    if not (text.isdigit() and text.isascii() and len(text) < 20):
        raise argparse.ArgumentTypeError("must be a whole number from 0 up, of at most 19 digits: %r" % text)
    return int(text)


def positive_seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0 and at most 86400: %r" % text)
    return seconds


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="gen_fashion_mnist.py", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, epilog=HELP,
        description="Fill a folder with the four uncompressed files of Fashion-MNIST and SOURCE, a text that says what they are.")
    parser.add_argument("--out", default="data", metavar="DIR", help="the folder to fill, made if need be (default: data)")
    parser.add_argument("--source", default="auto", choices=("auto", "real", "synthetic"),
                        help="what to fill it with (default: auto)")
    parser.add_argument("--from", dest="from_dir", metavar="DIR", help="a folder that holds the real set")
    parser.add_argument("--no-download", action="store_true", help="do not use the network")
    parser.add_argument("--timeout", type=positive_seconds, default=20.0, metavar="SECONDS",
                        help="give up on a server that is silent for so long, or takes %d times as long over one file "
                             "(default: 20)" % SLOWEST_DOWNLOAD)
    parser.add_argument("--seed", type=seed_number, metavar="N", help="seed of the synthetic set (default: %d)" % DEFAULT_SEED)
    args = parser.parse_args(argv)
    for option, folder in (("--out", args.out), ("--from", args.from_dir)):
        if folder == "" or (folder and "\0" in folder):
            parser.error("%s needs the name of a folder" % option)
    if args.source == "synthetic" and args.from_dir:
        parser.error("--from names a real set, so it cannot go with --source synthetic")
    return args


def main(argv=None):
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = parse(argv)
    try:
        print(fill(args), flush=True)
        return 0
    except KeyboardInterrupt:
        say("error: interrupted before the set was complete")
    except (DataError, OSError) as error:
        say("error: %s" % reason(error))
    except MemoryError:
        say("error: not enough memory")
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
