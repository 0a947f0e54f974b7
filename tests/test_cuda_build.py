#!/usr/bin/env python3
"""`make cuda` and what it builds, on a machine whose GPU, if it has one, is hidden.

CUDA_BUILD_ARCH names what to build for ("sm_75 sm_80 sm_90" is everything, and takes minutes); PTX alone by default.
The program must build without a warning for each architecture, need neither CUDA's runtime library nor the
driver's to start, train on the CPU under --device auto and say so, and refuse --device cuda with the reason.
"""
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
from test_lenet_fashion import write_part

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(os.environ.get("BUILD", "build"), "tests", "cuda_build")
NVCC = os.environ.get("NVCC", "nvcc")
ARCHITECTURES = os.environ.get("CUDA_BUILD_ARCH", "compute_90").split()


def run(*command, **options):
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="", **options.pop("environment", {}))
    return subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, env=environment,
                          stderr=options.pop("stderr", subprocess.STDOUT), **options)


class Header(unittest.TestCase):
    def test_without_nvcc_the_command_is_told(self):
        compiler = os.environ.get("CC", "cc").split()
        done = run(*compiler, "-DCNN_CUDA", "-DCNN_IMPLEMENTATION", "-x", "c", "-fsyntax-only", "cnn.h")
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"nvcc -x cu -DCNN_CUDA\b")


@unittest.skipUnless(shutil.which(NVCC), f"no {NVCC} here, so make cuda cannot be tried")
class Program(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.outputs = {}
        for architecture in ARCHITECTURES:
            cls.outputs[architecture] = run("make", "cuda", f"BUILD={BUILD}/{architecture}", f"CUDA_ARCH={architecture}")
        cls.program = os.path.join(ROOT, BUILD, ARCHITECTURES[0], "lenet_fashion_cuda")
        cls.data = tempfile.mkdtemp(prefix="cuda_build_")
        write_part(cls.data, "train", 300, random.Random(7))
        write_part(cls.data, "t10k", 100, random.Random(8))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.data)

    def test_builds_without_a_warning(self):
        for architecture, done in self.outputs.items():
            with self.subTest(architecture=architecture):
                self.assertEqual(done.returncode, 0, done.stdout)
                self.assertNotRegex(done.stdout, re.compile("warning", re.IGNORECASE))

    def test_needs_no_library_of_cuda(self):
        self.assertNotRegex(run("ldd", self.program).stdout, r"libcuda|libcudart|libcublas")

    def train(self, *options):
        return run(self.program, "--data", self.data, "--epochs", "1", *options, stderr=subprocess.PIPE)

    def test_auto_trains_on_the_cpu_and_says_so(self):
        for options in ((), ("--device", "auto"), ("--device", "cpu")):
            done = self.train(*options)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, re.compile(r"\bcpu\b", re.IGNORECASE))
            self.assertEqual(done.stderr, "")

    def test_cuda_without_a_gpu_is_an_error_with_the_reason(self):
        done = self.train("--device", "cuda")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertRegex(done.stderr, r"CUDA|cuda")
        self.assertRegex(done.stderr, r"driver|no CUDA-capable device")

    def test_another_device_is_refused(self):
        self.assertEqual(self.train("--device", "abacus").returncode, 2)


if __name__ == "__main__":
    unittest.main()
