"""The CUDA back end's tests on a GPU: builds and runs every group in turn; a line for each, then a summary.

    make test-cuda                 or    python3 tests/run_cuda.py [WORD ...]

With words, only the groups whose names contain one. Without nvcc or a GPU it says so and
passes: make test runs the same kernels on the CPU. NVCC, CUDA_ARCH (native, as for nvcc -arch=), CC, CXX and
BUILD come from the environment.
"""

import os
import shlex
import shutil
import sys

import run

NVCC = shlex.split(os.environ.get("NVCC", "nvcc"))
ARCH = os.environ.get("CUDA_ARCH") or "native"
FOLDER = os.path.join(run.BUILD, "tests", "gpu")
PROGRAMS = ("operators", "network", "golden")
SANITIZERS = {"memcheck": ["--leak-check", "full"], "racecheck": [], "synccheck": []}


def groups():
    """The first builds what all others need."""
    library = os.path.join(FOLDER, "library_cuda.o")
    program = os.path.join(FOLDER, "test_cuda")
    flags = [*run.CFLAGS, "-I."]
    build = [[*NVCC, "-x", "cu", f"-arch={ARCH}", "-O2", "-lineinfo", "-Werror", "all-warnings", "-Xcompiler",
              "-Wall,-Wextra", "-DCNN_NO_SIMD", "-I.", "-c", "tests/library_cuda.cpp", "-o", library],
             [*shlex.split(run.CXX), "-std=c++11", *run.WARNINGS, *flags, "-c", "tests/test_cuda.cpp", "-o",
              program + ".o"],
             [*NVCC, program + ".o", library, "-o", program]]
    result = [("build", build), ("the GPU against the CPU", [[program]])]
    for name in PROGRAMS:
        test = os.path.join(FOLDER, name)
        result.append((f"{name} on the GPU",
                       [[*shlex.split(run.CC), "-std=c99", *flags, "-c", f"tests/test_{name}.c", "-o", test + ".o"],
                        [*NVCC, test + ".o", library, "-o", test], ["env", "CNN_TEST_DEVICE=cuda", test]]))
    for tool, options in SANITIZERS.items():
        command = ["compute-sanitizer", "--tool", tool, *options, "--error-exitcode", "9", program, "short", "fit", "fused"]
        if not shutil.which("compute-sanitizer"):
            command = ["sh", "-c", "echo 'compute-sanitizer is not installed'; exit 77"]
        result.append((tool, [command]))
    return result


def main():
    if not shutil.which(NVCC[0]):
        print("skipped: no nvcc here, so the CUDA back end cannot be built; make test runs its kernels on the CPU")
        return 0
    if not os.path.exists("/dev/nvidiactl") and run.call(["sh", "-c", "nvidia-smi -L"])[0]:
        print("skipped: no GPU here (no /dev/nvidiactl, and nvidia-smi finds none); make test runs the same kernels on the "
              "CPU")
        return 0
    os.makedirs(FOLDER, exist_ok=True)
    words = sys.argv[1:]
    failed = passed = skipped = 0
    for group in groups():
        if words and group[0] != "build" and not any(word in group[0] for word in words):
            continue
        name, status, output, seconds = run.run(group)
        last = output.splitlines()[-1] if output else ""
        verdict = {0: "passed", 77: "skipped"}.get(status, "failed")
        print(f"{verdict:8}{name:32}{seconds:6.1f} s  {last[:120]}", flush=True)
        if verdict == "failed":
            print("\n".join("    " + line for line in output.splitlines()[-25:]), flush=True)
        if name == "build" and status:
            return 1
        if verdict == "skipped" and name == "the GPU against the CPU":
            print("skipped: no usable GPU here (" + last + "); make test runs the same kernels on the CPU")
            return 0
        failed += verdict == "failed"
        passed += verdict == "passed"
        skipped += verdict == "skipped"
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
