"""What two scans in a row agree on is believed."""

from pathlib import Path
from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from registry.sources import FileStamp, ModelListing, Snapshot, VersionListing
from registry.sources.settling import Settling


def model(name: str, versions: dict[int, int], config: str | None = None, problem: str = "") -> ModelListing:
    path = Path("/r") / name
    listed = {
        version: VersionListing(version, path / str(version), (FileStamp("model.onnx", size, 0, version),))
        for version, size in versions.items()
    }
    return ModelListing(name, path, MappingProxyType(listed), config.encode() if config else None, problem=problem)


def snap(**versions: dict[int, int]) -> Snapshot:
    return Snapshot({name: model(name, each) for name, each in versions.items()})


def sizes(snapshot: Snapshot) -> dict[str, dict[int, int]]:
    return {
        name: {version: listing.files[0].size for version, listing in each.versions.items()}
        for name, each in snapshot.models.items()
    }


def believed(*scans: Snapshot) -> dict[str, dict[int, int]]:
    settling = Settling()
    for scan in scans:
        settling.observe(scan)
    return sizes(settling.believed)


def test_one_scan_says_nothing():
    assert believed(snap(m={1: 5})) == {}


def test_two_equal_scans_are_believed():
    assert believed(snap(m={1: 5}), snap(m={1: 5})) == {"m": {1: 5}}


def test_a_file_that_grows_is_waited_for():
    assert believed(snap(m={1: 5}), snap(m={1: 6}), snap(m={1: 7})) == {"m": {}}
    assert believed(snap(m={1: 5}), snap(m={1: 7}), snap(m={1: 7})) == {"m": {1: 7}}


def test_a_version_that_grows_holds_no_other_up():
    scans = [snap(m={1: 5, 2: size}) for size in (1, 2, 3)]
    assert believed(*scans) == {"m": {1: 5}}


def test_a_file_that_is_rewritten_is_believed_as_it_was_until_it_holds_still():
    base = [snap(m={1: 5})] * 2
    assert believed(*base, snap(m={1: 0})) == {"m": {1: 5}}
    assert believed(*base, snap(m={1: 0}), snap(m={1: 3})) == {"m": {1: 5}}
    assert believed(*base, snap(m={1: 3}), snap(m={1: 3})) == {"m": {1: 3}}


def test_a_version_that_is_swapped_by_renaming_never_vanishes():
    base = [snap(m={1: 5})] * 2
    assert believed(*base, snap(m={}), snap(m={1: 5})) == {"m": {1: 5}}
    assert believed(*base, snap(), snap(m={1: 5})) == {"m": {1: 5}}


def test_what_is_absent_twice_is_gone():
    base = [snap(m={1: 5, 2: 5})] * 2
    assert believed(*base, snap(m={1: 5}), snap(m={1: 5})) == {"m": {1: 5}}
    assert believed(*base, snap(), snap()) == {}


def test_a_configuration_that_is_being_written_is_waited_for():
    settling = Settling()
    for config in ("a", "a", "ab", "abc"):
        settling.observe(Snapshot({"m": model("m", {1: 5}, config)}))
        assert settling.believed.models.get("m") is None or settling.believed.models["m"].config == b"a"
    settling.observe(Snapshot({"m": model("m", {1: 5}, "abc")}))
    assert settling.believed.models["m"].config == b"abc"


def test_a_model_that_cannot_be_read_keeps_what_it_had_and_says_so():
    settling = Settling()
    for scan in [snap(m={1: 5})] * 2 + [Snapshot({"m": model("m", {}, problem="no")})] * 3:
        settling.observe(scan)
    assert sizes(settling.believed) == {"m": {1: 5}}
    assert settling.believed.models["m"].problem == "no"
    settling.observe(snap(m={1: 5}))
    settling.observe(snap(m={1: 5}))
    assert settling.believed.models["m"].problem == ""


def test_a_folder_that_never_could_be_read_is_no_model():
    assert believed(*[Snapshot({"lost": model("lost", {}, problem="permission denied")})] * 3) == {}


def test_it_is_settled_when_two_scans_agree():
    settling = Settling()
    states = []
    for scan in (snap(m={1: 1}), snap(m={1: 2}), snap(m={1: 2}), snap(), snap()):
        settling.observe(scan)
        states.append(settling.is_settled)
    assert states == [False, False, True, False, True]


def test_an_empty_source_is_settled_at_once():
    settling = Settling()
    settling.observe(Snapshot())
    assert settling.is_settled


SCANS = st.lists(
    st.dictionaries(st.sampled_from("mn"), st.dictionaries(st.integers(1, 3), st.integers(0, 2)), max_size=2),
    min_size=2,
)


@given(SCANS)
def test_whatever_is_believed_was_seen_twice_in_a_row(scans: list[dict[str, dict[int, int]]]):
    settling = Settling()
    for scan in scans:
        settling.observe(snap(**scan))
    seen_twice = {
        (name, version, size)
        for before, after in zip(scans, scans[1:], strict=False)
        for name in before.keys() & after.keys()
        for version, size in before[name].items()
        if after[name].get(version) == size
    }
    held = {(name, version, size) for name, each in sizes(settling.believed).items() for version, size in each.items()}
    assert held <= seen_twice


@given(SCANS, st.dictionaries(st.sampled_from("mn"), st.dictionaries(st.integers(1, 3), st.integers(0, 2))))
def test_a_source_that_holds_still_is_believed_as_it_is(
    scans: list[dict[str, dict[int, int]]], last: dict[str, dict[int, int]]
):
    assert believed(*(snap(**scan) for scan in [*scans, last, last])) == last
