"""The CUDA back end beside PyTorch on the same GPU in the same run; ratios above 1: cnn.h is faster.

    make bench-cuda      or      python3 tests/bench/bench_cuda.py [--json] [--quick] [--only lenet|conv|NAME]

Runs $BUILD/bench_cuda, then torch_cuda.py, then both again, and takes the better of each one's two figures; then
$BUILD/lenet_fashion_cuda for ten epochs where $DATA has the data set. torch is looked for in $TORCH_PYTHON and
python3. Without a GPU it says so and is done.
"""

import argparse
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("BUILD", "build")
DATA = os.environ.get("DATA", "data")
ROUNDS = 2


def document(command):
    """(what a program prints as JSON, None) or (None, why not)."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as e:
        return None, str(e)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        return None, lines[-1] if lines else f"status {done.returncode}"
    return json.loads(done.stdout), None


def torch_pythons():
    return [p for p in (os.environ.get("TORCH_PYTHON"), "python3", sys.executable) if p]


def run_torch(options):
    reason = None
    for python in torch_pythons():
        found, reason = document([python, os.path.join(HERE, "torch_cuda.py"), *options])
        if found:
            return found, None
    return None, reason


def better(results, found):
    for r in found["results"]:
        key = (r["section"], r["name"], r["pass"])
        if key not in results or r["seconds"] < results[key]["seconds"]:
            results[key] = r


def ten_epochs():
    """Seconds of lenet_fashion_cuda from start to end, and what it prints; None: no program or no data."""
    program = os.path.join(BUILD, "lenet_fashion_cuda")
    if not os.path.exists(program) or not os.path.exists(os.path.join(DATA, "train-images-idx3-ubyte")):
        return None
    begin = time.perf_counter()
    done = subprocess.run([program, "--data", DATA, "--epochs", "10", "--device", "cuda", "--quiet"],
                          capture_output=True, text=True)
    return {"seconds": time.perf_counter() - begin, "status": done.returncode,
            "output": (done.stdout + done.stderr).strip()}


def print_lenet(ours, theirs):
    print(f"\n{'LeNet':22}{'us':>10}{'examples/s':>14}" + "".join(
        f"{form:>22}" for form in ("eager-host", "eager", "graph")))
    for (section, name, which), r in ours.items():
        if section != "lenet":
            continue
        line = f"{which + ' ' + name:22}{r['seconds'] * 1e6:10.1f}{r['examples_per_second']:14.0f}"
        for form in ("eager-host", "eager", "graph"):
            other = theirs.get((form, name, which))
            ratio = other and other["seconds"] / r["seconds"]
            line += f"{other['seconds'] * 1e6:12.1f} {ratio:7.1f}x " if other else f"{'-':>22}"
        print(line)


def print_convolutions(section, title, ours, theirs):
    names = dict.fromkeys(name for s, name, _ in ours if s == section)
    if names:
        print(f"\n{title:12}" + "".join(f"{which + ': GFLOP/s, % of peak, x':>32}" for which in ("forward", "dx", "dw")))
    for name in names:
        line = f"{name:12}"
        for which in ("forward", "dx", "dw"):
            r, other = ours[section, name, which], theirs.get((section, name, which))
            ratio = f"{other['seconds'] / r['seconds']:8.2f}x" if other else f"{'-':>9}"
            line += f"{r['gflops']:14.0f}{r['percent_of_peak']:8.1f}%{ratio}"
        print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="shorter rounds: a look, not a measurement")
    parser.add_argument("--only", help="only this section or name")
    args = parser.parse_args()
    options = ["--quick"] * args.quick + (["--only", args.only] if args.only else [])
    ours, theirs, head, torch_head, why = {}, {}, None, None, None
    for _ in range(ROUNDS):
        head, reason = document([os.path.join(BUILD, "bench_cuda"), "--json", *options])
        if not head:
            print(reason if reason.startswith("skipped") else f"bench_cuda.py: {reason}")
            return 0 if reason.startswith("skipped") else 1
        better(ours, head)
        torch_head, why = run_torch(options)
        if torch_head:
            better(theirs, torch_head)
    epochs = None if args.only else ten_epochs()
    if args.json:
        print(json.dumps({**head, "results": list(ours.values()), "ten_epochs": epochs,
                          "torch": torch_head and torch_head["torch"], "torch_skipped": why,
                          "torch_results": list(theirs.values())}, indent=1))
        return 0
    print(f"{head['device']}: {head['fma_peak_gflops']:.0f} GFLOP/s of float32 multiply-adds, copies "
          f"{head['copy_gbytes_per_second']:.0f} GB/s, {head['graph_node_microseconds']:.2f} us a graph node")
    print(f"beside PyTorch {torch_head['torch']}" if torch_head else f"skipped: PyTorch: {why}")
    print_lenet(ours, theirs)
    print_convolutions("conv", "float32", ours, theirs)
    print_convolutions("tf32", "TF32", ours, theirs)
    print_convolutions("direct", "float32 without Winograd", ours, theirs)
    print(f"VGG and ResNet convolutions in float32, geometric mean: "
          f"{head['conv_percent_of_peak_geometric_mean']:.1f}% of the peak")
    if epochs:
        print(f"ten epochs of lenet_fashion_cuda, start-up included: {epochs['seconds']:.2f} s\n{epochs['output']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
