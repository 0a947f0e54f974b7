"""cnn.h beside PyTorch and oneDNN, measured alternately in the same run; ratios above 1: cnn.h is faster.

    make bench-peers      or
    python3 tests/bench/peers.py [--json] [--quick] [--only lenet|conv] [--threads N]

PyTorch trains LeNet and runs it; oneDNN runs the forward convolutions of bench's table. Each figure is the
median over the rounds (LeNet 3, convolutions 5), on one thread and on N. A peer that is not installed is
skipped, with its reason. Looked for: torch in $TORCH_PYTHON, python3 and /usr/bin/python3; dnnl.hpp and
libdnnl by $CXX (default g++). $BUILD (default build) holds the programs, $DATA (default data) the IDX files.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("BUILD", "build")
DATA = os.environ.get("DATA", "data")
BENCH = os.path.join(BUILD, "bench")
ONEDNN = os.path.join(BUILD, "onednn_conv")
SHAPE = ("n", "c", "h", "w", "o", "kernel", "stride", "padding", "dilation", "groups")
MODES = ("nchw", "own", "winograd")


def output(command, **options):
    """What a program prints; its failure is ours."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"peers.py: {' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def bench(args, *words):
    """The document of build/bench for the results that have all the words."""
    command = [BENCH, "--json", "--threads", str(args.threads)]
    for word in words:
        command += ["--only", word]
    return json.loads(output(command + args.bench))


def by_threads(document):
    return {r["threads"]: r for r in document["results"]}


def counts(args):
    return [1] if args.threads == 1 else [1, args.threads]


def threaded(count):
    """The environment in which OpenMP programs use so many threads."""
    return dict(os.environ, OMP_NUM_THREADS=str(count))


# ---- PyTorch


def find_torch():
    """(python, version) or (None, reason)"""
    for python in (os.environ.get("TORCH_PYTHON"), sys.executable, "python3", "/usr/bin/python3"):
        if python and shutil.which(python):
            script = "import torch; print(torch.__version__)"
            done = subprocess.run([python, "-c", script], capture_output=True, text=True)
            if not done.returncode:
                return python, done.stdout.strip()
    return None, "no Python with torch was found; $TORCH_PYTHON can name one"


def torch_round(args, python):
    """{threads: what torch_lenet.py measured}"""
    script = [python, os.path.join(HERE, "torch_lenet.py"), "--data", DATA]
    script += ["--examples", str(args.examples), "--threads"]
    return {n: json.loads(output(script + [str(n)], env=threaded(n))) for n in counts(args)}


def compare_torch(args):
    """LeNet: {"torch": version, "results": [...]}, or {"skipped": reason}"""
    python, version = find_torch()
    if not python:
        return {"skipped": version}
    rows = {}
    for _ in range(args.lenet_rounds):
        train = by_threads(bench(args, "lenet", "batch256", "train"))
        one = by_threads(bench(args, "lenet", "batch1", "infer"))
        many = by_threads(bench(args, "lenet", "batch256", "infer"))
        theirs = torch_round(args, python)
        for n in counts(args):
            add(rows, ("train", 256, n), train[n]["seconds"], 256 / theirs[n]["examples_per_second"])
        add(rows, ("infer", 1, 1), one[1]["seconds"], theirs[1]["infer_1_seconds"])
        for n in counts(args):
            add(rows, ("infer", 256, n), many[n]["seconds"], theirs[n]["infer_256_seconds"])
    results = []
    for (work, batch, threads), (ours, peer) in rows.items():
        seconds, peer_seconds = statistics.median(ours), statistics.median(peer)
        results.append({"pass": work, "batch": batch, "threads": threads, "seconds": seconds,
                        "torch_seconds": peer_seconds, "ratio": peer_seconds / seconds})
    return {"torch": version, "data": theirs[1]["data"], "rounds": args.lenet_rounds, "results": results}


def add(rows, key, ours, peer):
    mine, others = rows.setdefault(key, ([], []))
    mine.append(ours)
    others.append(peer)


def print_torch(found):
    if "skipped" in found:
        print(f"PyTorch: skipped: {found['skipped']}")
        return
    print(f"LeNet beside PyTorch {found['torch']}, medians of {found['rounds']} "
          f"(its images: {found['data']})")
    heads = ("cnn.h us", "torch us", "cnn.h /s", "torch /s")
    print(f"{'':22}{'threads':>8}{''.join(f'{head:>12}' for head in heads)}{'ratio':>8}")
    for r in found["results"]:
        print(f"{r['pass'] + ', batch ' + str(r['batch']):22}{r['threads']:8}{r['seconds'] * 1e6:12.1f}"
              f"{r['torch_seconds'] * 1e6:12.1f}{r['batch'] / r['seconds']:12.0f}"
              f"{r['batch'] / r['torch_seconds']:12.0f}{r['ratio']:8.2f}")


# ---- oneDNN


def build_onednn():
    """None, or why there is no program."""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        return f"there is no C++ compiler {compiler}"
    source = os.path.join(HERE, "onednn_conv.cpp")
    done = subprocess.run([compiler, "-O2", source, "-o", ONEDNN, "-ldnnl"], capture_output=True, text=True)
    if not done.returncode:
        return None
    lines = done.stderr.strip().splitlines()
    why = next((line for line in lines if "error" in line or "cannot find" in line), "the compiler failed")
    if "dnnl.hpp" in why or "-ldnnl" in why:
        return "oneDNN is not installed (dnnl.hpp, libdnnl)"
    sys.exit(f"peers.py: {source} does not build: {why}")


def onednn_round(shape, threads):
    """{mode: (seconds or None, implementation)}"""
    line = "x " + " ".join(str(shape[key]) for key in SHAPE) + "\n"
    found = {}
    for text in output([ONEDNN], input=line, env=threaded(threads)).splitlines()[1:]:
        _, mode, seconds, name = text.split(maxsplit=3)
        found[mode] = (None if seconds == "-" else float(seconds), name)
    return found


def compare_shape(args, name, shape):
    """The results of one shape, for each number of threads."""
    ours = {n: [] for n in counts(args)}
    theirs = {n: {mode: [] for mode in MODES} for n in counts(args)}
    names = {}
    for _ in range(args.conv_rounds):
        measured = by_threads(bench(args, "conv", name, "forward"))
        for n in counts(args):
            ours[n].append(measured[n])
            for mode, (seconds, implementation) in onednn_round(shape, n).items():
                if seconds is not None:
                    theirs[n][mode].append(seconds)
                    names[mode] = implementation
    results = []
    for n in counts(args):
        seconds = statistics.median(r["seconds"] for r in ours[n])
        row = {"name": name, "shape": shape, "threads": n, "seconds": seconds,
               "gflops": statistics.median(r["gflops"] for r in ours[n]), "onednn": {}}
        for mode, times in theirs[n].items():
            if times:
                peer = statistics.median(times)
                row["onednn"][mode] = {"seconds": peer, "ratio": peer / seconds,
                                       "implementation": names[mode]}
        results.append(row)
    return results


def compare_onednn(args):
    """Convolutions: {"onednn": version, "results": [...]}, or {"skipped": reason}; prints as it goes."""
    why = build_onednn()
    if why:
        return {"skipped": why}
    version = output([ONEDNN], input="").split()[1]
    table = bench(args, "conv", "forward")
    shapes = {r["name"]: r["shape"] for r in table["results"]}
    if not args.json:
        print_onednn_head(args, version)
    results = []
    for name, shape in shapes.items():
        rows = compare_shape(args, name, shape)
        if not args.json:
            print_shape(rows)
        results += rows
    return {"onednn": version, "rounds": args.conv_rounds, "results": results}


def print_onednn_head(args, version):
    print(f"Convolutions forward beside oneDNN {version}, medians of {args.conv_rounds}\n"
          "(ratios to its plain NCHW, its own layout, its Winograd)")
    print(f"{'':11}" + "".join(f"{str(n) + (' threads' if n > 1 else ' thread'):>36}" for n in counts(args)))
    print(f"{'':11}" + f"{'GFLOP/s':>12}{'nchw':>8}{'own':>8}{'wino':>8}" * len(counts(args)))


def print_shape(rows):
    cells = ""
    for row in rows:
        cells += f"{row['gflops']:12.1f}"
        for mode in MODES:
            cells += f"{row['onednn'][mode]['ratio']:8.2f}" if mode in row["onednn"] else f"{'-':>8}"
    print(f"{rows[0]['name']:11}{cells}", flush=True)


# ---- The program


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--only", choices=("lenet", "conv"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    args.lenet_rounds, args.conv_rounds, args.examples = (1, 1, 2560) if args.quick else (3, 5, 20480)
    args.bench = ["--quick"] if args.quick else ["--repetitions", "1"]
    return args


def main():
    args = parse()
    if not os.path.exists(BENCH):
        sys.exit(f"peers.py: there is no {BENCH}; make {BENCH} builds it")
    begin = time.monotonic()
    first = bench(args, "lenet", "batch1", "train")
    document = {key: first[key] for key in ("version", "cpu", "instruction_set", "compiler", "threads")}
    if not args.json:
        print(f"cnn.h {first['version']}, {first['instruction_set']}, {first['compiler']}\n{first['cpu']}\n")
    if args.only != "conv":
        document["lenet"] = compare_torch(args)
        if not args.json:
            print_torch(document["lenet"])
            print(flush=True)
    if args.only != "lenet":
        document["conv"] = compare_onednn(args)
        if not args.json and "skipped" in document["conv"]:
            print(f"oneDNN: skipped: {document['conv']['skipped']}")
    document["seconds"] = time.monotonic() - begin
    if args.json:
        print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
