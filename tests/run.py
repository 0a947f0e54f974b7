"""Builds and runs every test group, two at a time; a line for each, then "N passed, N failed[, N skipped]".

    make test                      or    python3 tests/run.py [WORD ...]

With words, only the groups whose names contain one. A group is a command: exit status 0 passes, 77 skips (the last line
printed is the reason), anything else fails and its output is shown. CC, CFLAGS, OPENMP, BUILD and DATA come from the
environment, as the Makefile sets them.
"""

import concurrent.futures
import glob
import os
import shlex
import subprocess
import sys
import time

CC = os.environ.get("CC", "cc")
CFLAGS = shlex.split(os.environ.get("CFLAGS", "-O2 -g"))
OPENMP = shlex.split(os.environ.get("OPENMP", ""))
BUILD = os.environ.get("BUILD", "build")
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
TIMEOUT = 280


def c_group(source, variant, flags):
    """A C test program: compiled, then run."""
    name = os.path.splitext(os.path.basename(source))[0]
    program = os.path.join(BUILD, "tests", name + variant.replace(" ", "_"))
    compile_it = [*shlex.split(CC), "-std=c99", *WARNINGS, *flags, "-I.", source, "-o", program, "-lm"]
    return (name[5:] + (", " + variant if variant else ""), [compile_it, [program]])


def can_sanitize():
    """Whether the compiler has the sanitizers' run-time library."""
    probe = os.path.join(BUILD, "tests", "probe")
    with open(probe + ".c", "w") as f:
        f.write("int main(void) { return 0; }\n")
    build = [*shlex.split(CC), *SANITIZE, probe + ".c", "-o", probe]
    return not subprocess.run(build, capture_output=True).returncode and not subprocess.run([probe]).returncode


def groups():
    sources = sorted(glob.glob("tests/test_*.c"))
    result = [(os.path.basename(s)[5:-3], [[sys.executable, s]]) for s in sorted(glob.glob("tests/test_*.py"))]
    result += [c_group(s, "", CFLAGS + OPENMP) for s in sources]
    if OPENMP:
        result += [c_group(s, "no openmp", CFLAGS) for s in sources if "network" in s]
    if any("sanitize" in flag for flag in CFLAGS):
        return result
    if can_sanitize():
        result += [c_group(s, "sanitized", SANITIZE + OPENMP) for s in sources]
    else:
        result.append(("sanitized", [["sh", "-c", "echo '%s has no sanitizers'; exit 77" % CC]]))
    return result


def run(group):
    """(name, status, output, seconds)"""
    name, commands = group
    begin = time.monotonic()
    output = ""
    environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=1", PYTHONDONTWRITEBYTECODE="1")
    for command in commands:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=TIMEOUT, env=environment)
        except subprocess.TimeoutExpired as e:
            return name, 1, (e.output or b"").decode(errors="replace") + f"\nstopped after {TIMEOUT} s", TIMEOUT
        output = done.stdout.decode(errors="replace").rstrip()
        if done.returncode:
            break
    return name, done.returncode, output, time.monotonic() - begin


def main():
    os.makedirs(os.path.join(BUILD, "tests"), exist_ok=True)
    chosen = [g for g in groups() if not sys.argv[1:] or any(word in g[0] for word in sys.argv[1:])]
    count = {"passed": 0, "failed": 0, "skipped": 0}
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run, g) for g in chosen]):
            name, status, output, seconds = done.result()
            last = output.splitlines()[-1] if output else ""
            verdict = {0: "passed", 77: "skipped"}.get(status, "failed")
            count[verdict] += 1
            print(f"{verdict:8}{name:32}{seconds:6.1f} s  {last[:120]}", flush=True)
            if verdict == "failed":
                print("\n".join("    " + line for line in output.splitlines()[-60:]), flush=True)
            for line in output.splitlines()[:-1]:
                if verdict == "passed" and line.lower().lstrip().startswith("skipped"):
                    print("    " + line, flush=True)
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    print(f"{count['passed']} passed, {count['failed']} failed{skipped}")
    return 1 if count["failed"] or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
