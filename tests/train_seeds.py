"""Trains on the real Fashion-MNIST set with three seeds and checks the spread of the results; a slow check.

    python3 tests/train_seeds.py            needs build/lenet_fashion, and data/ with the real set
"""

import os
import re
import subprocess
import sys

BUILD = os.environ.get("BUILD", "build")
DATA = os.environ.get("DATA", "data")


def train(*options):
    """loss, train accuracy, test accuracy, examples/sec"""
    done = subprocess.run([os.path.join(BUILD, "lenet_fashion"), "--data", DATA, "--quiet", *options], check=True,
                          stdout=subprocess.PIPE, text=True)
    numbers = re.fullmatch(r"loss ([\d.]+), train acc ([\d.]+), test acc ([\d.]+)\n([\d.]+) examples/sec on cpu\n",
                           done.stdout)
    print(" ".join(options) + ": " + done.stdout.strip().replace("\n", ", "), flush=True)
    return [float(n) for n in numbers.groups()]


def main():
    with open(os.path.join(DATA, "SOURCE")) as f:
        if f.read().split()[0] != "real":
            print("skipped: the data set here is not the real one")
            return 0
    bad = []
    tests = []
    for seed in ("1", "2", "3"):
        loss, train_accuracy, test_accuracy, _ = train("--seed", seed)
        tests.append(test_accuracy)
        if not (0.44 <= loss <= 0.50 and 0.81 <= train_accuracy <= 0.85 and test_accuracy >= 0.74):
            bad.append(f"seed {seed} is outside the spread")
        if train("--net", "lenet-relu", "--seed", seed)[2] < 0.90:
            bad.append(f"lenet-relu, seed {seed}, is below 0.90")
    if sum(tests) / 3 < 0.775:
        bad.append("the mean test accuracy is below 0.775")
    print("\n".join(bad) or "all within the spread")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
