"""Coverage-guided fuzzing of everything that reads bytes of a client or a text of an operator: `make fuzz`.

Two engines, one kind of feedback. The decoders and framings are headers that need no Python, so they are fuzzed as
plain C++ by libFuzzer under AddressSanitizer and UBSan, thousands of inputs a second, leaks included. What is
a connection only together with Cython code (HTTP/1, and HTTP/2 beyond its session) is driven by atheris, which is
libFuzzer inside of an interpreter: the modules are built by clang with the same instrumentation, so that their
branches, and not those of the harness, count. `gateway.model_config` is Python, and atheris counts the branches of
its byte code and of protobuf's text parser. simdjson, nghttp2, zlib and llhttp are the system's and not instrumented;
what they do shows in the branches that we take on what they say.

    target            what is fuzzed                                      engine, feedback
    proto             ModelInferRequest bytes                             libFuzzer, wire_proto.hpp and below
    json              V2 JSON bodies, binary tensors, header lengths      libFuzzer, wire_json.hpp and below
    http1_framing     heads and bodies of HTTP/1 requests                 libFuzzer, http1_head.hpp and http1_body.hpp
    http2             bytes into a server's HTTP/2 session, gRPC framing  libFuzzer, http2_session.hpp and below
    http1             bytes into the real Http1Protocol                   atheris, the http1 modules
    http2_connection  what http2 found, into the real Http2Protocol       atheris, the http2 modules
    config            config.pbtxt and its JSON form                      atheris, gateway.model_config, protobuf

Each target's file opens with its invariant. `json` and `http2` have mutators that know the structure (a header length
that follows the JSON, frames whose lengths stay right, header blocks, events on the server's side); the others have
dictionaries. After its run, every input that proto and json have found interesting is decoded once more through
`kernels.wire` and compared with the decoders in plain Python (wire.py).

The corpus in the checkout is small and made to be read; `tests/fuzz/test_corpus.py` replays it in every `make test`.
A run adds what it finds to fuzz-work/TARGET/corpus, where the next one goes on, and leaves crashing inputs,
minimised, and the log in fuzz-work/TARGET. To play one again: build/fuzz/bin/TARGET FILE.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/fuzz"
BUILD = ROOT / "build/fuzz"
BIN = BUILD / "bin"
WORK = ROOT / "fuzz-work"

CXX_FLAGS = (
    "-std=c++20 -g -O1 -Wall -Wextra -Werror -fno-omit-frame-pointer -fno-strict-aliasing "
    "-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all"
).split()
#: The checks of `undefined` that need nothing of the C++ runtime, which the interpreter does not preload.
UNDEFINED = (
    "alignment,bool,bounds,builtin,enum,integer-divide-by-zero,nonnull-attribute,null,object-size,pointer-overflow,"
    "return,returns-nonnull-attribute,shift,signed-integer-overflow,unreachable,vla-bound"
)


@dataclass(frozen=True)
class Target:
    name: str
    max_len: int
    libraries: tuple[str, ...] = ()
    """For C++: what to link."""
    modules: tuple[str, ...] = ()
    """For Python: the native modules to instrument, with all that they use."""
    corpus: str = ""
    """The folder of the seeds, when it is another target's."""
    dictionary: str = ""

    @property
    def is_native(self) -> bool:
        return (HERE / f"{self.name}.cpp").exists()

    @property
    def seeds(self) -> Path:
        return HERE / "corpus" / (self.corpus or self.name)


TARGETS = (
    Target("proto", 4096, ("simdjson",)),
    Target("json", 4096, ("simdjson",)),
    Target("http1_framing", 2048, ("z",), dictionary="http1"),
    Target("http2", 4096, ("nghttp2", "z")),
    Target("http1", 2048, modules=("http1", "testing")),
    Target("http2_connection", 4096, modules=("http2", "testing"), corpus="http2", dictionary="http2"),
    Target("config", 4096),
)


# Building


def clang() -> str:
    """The newest clang++ there is."""
    named = [shutil.which("clang++"), *(shutil.which(f"clang++-{version}") for version in range(30, 13, -1))]
    found = next((path for path in named if path), None)
    return found or sys.exit("make fuzz needs clang and its runtime (on Debian: clang, libclang-rt-dev)")


def build_native(target: Target) -> None:
    binary, source = BIN / target.name, HERE / f"{target.name}.cpp"
    inputs = [source, Path(__file__), *HERE.glob("*.hpp"), *(ROOT / "kernels").glob("*.hpp")]
    if binary.exists() and all(path.stat().st_mtime < binary.stat().st_mtime for path in inputs):
        return
    print(f"building {target.name}", flush=True)
    libraries = [f"-l{name}" for name in target.libraries]
    command = [clang(), *CXX_FLAGS, f"-I{ROOT / 'kernels'}", str(source), "-o", str(binary), *libraries]
    subprocess.run(command, check=True)


def used_modules(targets: list[Target]) -> list[str]:
    """The native modules of these targets, and those that they import or cimport, directly or not."""
    found: set[str] = set()
    waiting = {module for target in targets for module in target.modules}
    while waiting:
        module = waiting.pop()
        sources = [ROOT / f"kernels/{module}{suffix}" for suffix in (".pyx", ".pxd")]
        text = "".join(source.read_text("utf-8") for source in sources if source.exists())
        waiting |= set(re.findall(r"^\s*(?:from|c?import) kernels\.(\w+)", text, re.MULTILINE)) - found - {module}
        found.add(module)
    return sorted(module for module in found if (ROOT / f"kernels/{module}.pyx").exists())


def build_modules(targets: list[Target]) -> None:
    modules = used_modules(targets)
    if not modules:
        return
    print("building instrumented modules", flush=True)
    cache = BUILD / "CMakeCache.txt"
    if cache.exists() and f"={clang()}\n" not in cache.read_text("utf-8"):
        cache.unlink()  # CMake forgets all options when the compiler changes
    compilers = [f"-DCMAKE_CXX_COMPILER={clang()}", f"-DCMAKE_C_COMPILER={clang().replace('clang++', 'clang')}"]
    options = [f"-DSLUICE_SANITIZE=fuzzer-no-link,address,{UNDEFINED}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    python = f"-DPython_EXECUTABLE={sys.executable}"
    configure = ["cmake", "-S", str(ROOT / "kernels"), "-B", str(BUILD), "-G", "Ninja", *compilers, *options, python]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", BUILD, "--target", *modules], check=True)


def write_command(target: Target) -> None:
    """A Python target as one command, which is how libFuzzer calls itself when it minimises."""
    command, preload = BIN / target.name, ""
    if target.modules:
        import atheris

        preload = f"LD_PRELOAD={shlex.quote(atheris.path())}/asan_with_fuzzer.so"
    words = shlex.join([sys.executable, str(HERE / "driver.py"), str(command), target.name])
    path = f"PYTHONPATH={shlex.quote(f'{ROOT}:{ROOT}/tests')} SLUICE_FUZZ_MODULES={shlex.quote(str(BUILD))}"
    command.write_text(f'#!/bin/sh\nexec env {path} {preload} {words} "$@"\n')
    command.chmod(0o755)


# Running


def sanitizer_environment(target: Target) -> dict[str, str]:
    # An interpreter keeps memory for life.
    leaks = int(target.is_native)
    options = {"ASAN_OPTIONS": f"detect_leaks={leaks}", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
    symbolizers = [shutil.which("llvm-symbolizer"), *sorted(map(str, Path("/usr/bin").glob("llvm-symbolizer-*")))]
    symbolizer = next((path for path in symbolizers if path), None)
    return {**os.environ, **options, **({"ASAN_SYMBOLIZER_PATH": symbolizer} if symbolizer else {})}


def run(target: Target, seconds: int) -> bool:
    """One target for so long. False when it found something."""
    work = WORK / target.name
    corpus = work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    before = set(artifacts(work))
    limits = [f"-max_total_time={seconds}", f"-max_len={target.max_len}", "-timeout=10", "-rss_limit_mb=2048"]
    options = [*limits, "-malloc_limit_mb=64", f"-detect_leaks={int(target.is_native)}", "-print_final_stats=1"]
    options += [f"-artifact_prefix={work}/", f"-dict={HERE / (target.dictionary or target.name)}.dict"]
    folders = [corpus, target.seeds, *([WORK / target.corpus / "corpus"] if target.corpus else [])]
    command = [str(BIN / target.name), *options, *(str(folder) for folder in folders if folder.is_dir())]
    log = work / "log"
    began = time.monotonic()
    with log.open("wb") as output:
        code = subprocess.run(command, stdout=output, stderr=output, env=sanitizer_environment(target)).returncode
    text = log.read_text("utf-8", "replace")
    report(target, text)
    found = [path for path in artifacts(work) if path not in before]
    if len(found) == 1 and was_only_slow(target, found[0]):
        left = seconds - int(time.monotonic() - began)
        return left <= 0 or run(target, left)
    for path in found:
        minimise(target, path)
    if code or found:
        print("".join(f"    {line}\n" for line in text.splitlines() if is_telling(line))[-4000:], flush=True)
        print(f"  failed ({code}); see {log.relative_to(ROOT)}", flush=True)
    return not code and not found and has_feedback(target, text)


def artifacts(work: Path) -> list[Path]:
    return [path for kind in ("crash", "leak", "timeout", "oom") for path in work.glob(f"{kind}-*")]


def was_only_slow(target: Target, found: Path) -> bool:
    """Whether a timeout was the machine's, which had other things to do: played again the input takes no time."""
    if not found.name.startswith("timeout-"):
        return False
    command = [str(BIN / target.name), "-timeout=5", str(found)]
    if subprocess.run(command, env=sanitizer_environment(target), stderr=subprocess.DEVNULL).returncode:
        return False
    print("  the machine stood still meanwhile", flush=True)
    found.unlink()
    return True


def is_telling(line: str) -> bool:
    return re.search(r"ERROR|SUMMARY|does not hold|runtime error|Error:|^    #[0-9] |  File ", line) is not None


def minimise(target: Target, found: Path) -> None:
    small = found.with_name(f"minimised-{found.name}")
    options = ["-minimize_crash=1", "-max_total_time=20", f"-exact_artifact_path={small}"]
    command = [str(BIN / target.name), *options, str(found)]
    if not found.name.startswith("timeout-"):
        subprocess.run(command, env=sanitizer_environment(target), stderr=subprocess.DEVNULL)
    if not small.exists():
        shutil.copy(found, small)
    print(f"  found {small.relative_to(ROOT)}: {small.stat().st_size} bytes", flush=True)


def coverage(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^#\d+\s.*\bcov: (\d+)", text, re.MULTILINE)]


def has_feedback(target: Target, text: str) -> bool:
    counts = coverage(text)
    if counts and counts[-1] > 100:
        return True
    print(f"  {target.name} ran without coverage", flush=True)
    return False


def report(target: Target, text: str) -> None:
    counts = coverage(text) or [0]
    runs = re.search(r"number_of_executed_units: (\d+)", text) or re.search(r"Done (\d+)", text)
    rate = re.search(r"average_exec_per_sec: +(\d+)", text)
    corpus = re.findall(r"corp: (\S+)", text) or ["0"]
    print(
        f"  {int(runs[1]) if runs else 0:,} runs, {int(rate[1]) if rate else 0:,} a second, "
        f"coverage {counts[0]} at first and {counts[-1]} at the end, corpus {corpus[-1]}",
        flush=True,
    )


def compare_with_reference(target: Target) -> bool:
    """Every input found so far through `kernels.wire`, next to the reference."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from fuzz import wire

    check, paths = getattr(wire, target.name), sorted((WORK / target.name / "corpus").iterdir())
    wrong = 0
    for path in paths:
        try:
            check(path.read_bytes())
        except Exception as error:
            wrong += 1
            print(f"  not as the reference reads it: {path.relative_to(ROOT)}: {error!r:.300}", flush=True)
    print(f"  {len(paths):,} inputs are read as the reference reads them" if not wrong else f"  {wrong} differ")
    return not wrong


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=int, default=600, help="for all targets together")
    options.add_argument("targets", nargs="*", help="only these")
    given = options.parse_args()
    chosen = [target for target in TARGETS if not given.targets or target.name in given.targets]
    if unknown := set(given.targets) - {target.name for target in TARGETS}:
        sys.exit(f"no such target: {', '.join(sorted(unknown))}")
    BIN.mkdir(parents=True, exist_ok=True)
    for target in chosen:
        build_native(target) if target.is_native else write_command(target)
    build_modules(chosen)
    failed = []
    for target in chosen:
        print(target.name, flush=True)
        good = run(target, max(1, given.seconds // len(chosen)))
        if target.name in ("proto", "json"):
            good = compare_with_reference(target) and good
        if not good:
            failed.append(target.name)
    if failed:
        sys.exit(f"fuzzing found something in: {', '.join(failed)}")


if __name__ == "__main__":
    main()
