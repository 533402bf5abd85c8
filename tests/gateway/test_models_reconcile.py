"""Which versions come and go, decided from snapshots and outcomes alone."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from reconciler_house import House, listing, snapshot

from gateway.attempts import CHANGED_IN_PLACE, Attempt, IndexRow, Load, Unload, Verify
from gateway.lifecycle import State
from gateway.model_config import WrittenConfig, parse
from registry.sources import FileStamp, ModelListing, Problem, Snapshot


@pytest.fixture
def house() -> House:
    return House()


def test_nothing_is_ready_before_the_source_was_read(house: House):
    assert not house.reconciler.is_ready()
    house.reconciler.observe(Snapshot())
    assert house.reconciler.is_ready()


def test_the_latest_version_is_loaded_and_then_ready(house: House):
    house.reconciler.observe(snapshot(m=[1, 2]))
    assert house.decide() == ["Load m 2"]
    assert not house.reconciler.is_ready()
    house.load(2)
    assert house.ready() == (2,)
    assert house.reconciler.is_ready()
    assert house.decide() == []


def test_the_time_of_a_load_is_from_its_start_to_ready_and_stays(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.decide()
    assert [row.load_seconds for row in house.reconciler.index()] == [0.0]
    house.now += 2.5
    house.reconciler.loaded(house.loading(1), "digest", house.now)
    house.reconciler.died(house.in_state(1, State.READY), "killed", house.now + 1)
    assert [row.load_seconds for row in house.reconciler.index()] == [2.5]


def test_at_first_a_model_is_ready_when_all_its_versions_have_come_out(house: House):
    house.reconciler.observe(snapshot(m=listing("m", [1, 2, 3], "version_policy { all {} }")))
    house.load(3)
    assert house.ready() == (3,)
    assert not house.reconciler.is_ready()
    house.load(2)
    assert not house.reconciler.is_ready()
    house.decide()
    house.reconciler.failed(house.loading(1), "broken", house.now)
    assert house.reconciler.is_ready()
    house.now += 1.0
    assert house.decide() == ["Load m 1"]
    assert house.reconciler.is_ready()


OWN = {1: b"max_batch_size: 1", 2: b"max_batch_size: 2"}


def with_own_configurations(*versions: int, configs: dict[int, bytes] = OWN) -> ModelListing:
    """As a catalog lists them: the model's configuration is the newest version's."""
    plain = listing("m", list(versions), configs[versions[-1]].decode())
    own = {number: replace(each, config=configs[number]) for number, each in plain.versions.items()}
    return replace(plain, versions=own, is_chosen=True)


def test_a_version_with_another_configuration_leaves_the_one_beside_it_alone(house: House):
    house.reconciler.observe(snapshot(m=with_own_configurations(1)))
    house.load(1)
    house.reconciler.observe(snapshot(m=with_own_configurations(1, 2)))
    assert house.decide() == ["Load m 2"]
    assert house.loading(2).written.config.max_batch_size == 2
    house.load(2)
    assert house.decide() == []
    assert house.in_state(1, State.READY).written.config.max_batch_size == 1
    assert house.ready() == (1, 2)


def test_a_version_whose_own_configuration_cannot_be_read_leaves_the_one_beside_it_alone(house: House):
    house.reconciler.observe(snapshot(m=with_own_configurations(1)))
    house.load(1)
    house.reconciler.observe(snapshot(m=with_own_configurations(1, 2, configs=OWN | {2: b"nonsense {"})))
    assert house.decide() == ["Load m 2"]
    refusal = house.loading(2).written.refusal
    assert refusal is not None
    assert "config.pbtxt:1" in refusal.reason
    house.reconciler.failed(house.loading(2), refusal.reason, house.now, is_final=True)
    assert house.decide() == []
    assert house.ready() == (1,)


def test_a_start_with_a_version_whose_own_configuration_cannot_be_read_serves_the_others(house: House):
    house.reconciler.observe(snapshot(m=with_own_configurations(1, 2, configs=OWN | {2: b"nonsense {"})))
    house.load(1)
    assert house.ready() == (1,)


def test_labels_of_a_version_with_its_own_configuration_are_its_own(house: House):
    labels = FileStamp("labels.txt", 9, 0, 7)
    text = b'output { name: "y" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt" }'
    model = with_own_configurations(1, 2, configs={1: text, 2: b""})
    versions = dict(model.versions)
    versions[1] = replace(versions[1], files=(labels, *versions[1].files))
    house.reconciler.observe(snapshot(m=replace(model, versions=versions)))
    house.decide()
    assert house.loading(1).revision.companions == (labels,)
    assert house.loading(1).companions_path == versions[1].path


def test_an_action_is_returned_once(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    assert house.decide() == ["Load m 1"]
    assert house.decide() == []


def test_a_new_version_takes_over_only_when_ready(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m=[1, 2]))
    assert house.decide() == ["Load m 2"]
    assert house.ready() == (1,)
    assert house.reconciler.is_ready()
    house.reconciler.loaded(house.loading(2), "", house.now)
    assert house.ready() == (1, 2)
    assert house.decide() == ["Unload m 1"]
    assert house.ready() == (2,)


def test_a_version_that_was_replaced_is_listed_as_unloaded_while_it_is_there(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m=[1, 2]))
    house.load(2)
    house.decide()
    house.finish_unload(1)
    rows = [IndexRow("m", "1", "UNAVAILABLE", "unloaded"), IndexRow("m", "2", "READY")]
    assert house.reconciler.index() == rows
    house.reconciler.observe(snapshot(m=[2]))
    house.decide()
    assert house.reconciler.index() == rows[1:]


def test_a_broken_version_never_disturbs_a_good_one(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m=[1, 2]))
    house.decide()
    house.reconciler.failed(house.loading(2), "not a model", house.now)
    assert house.decide() == []
    assert house.ready() == (1,)
    assert house.reconciler.is_ready()
    assert IndexRow("m", "2", "UNAVAILABLE", "not a model") in house.reconciler.index()


def test_a_failed_load_is_tried_again_after_pauses_that_double(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.decide()
    for pause in (1.0, 2.0, 4.0, 8.0, 8.0):
        house.reconciler.failed(house.loading(1), "no", house.now)
        assert house.reconciler.wake_at(house.now) == house.now + pause
        house.now += pause - 0.1
        assert house.decide() == []
        house.now += 0.1
        assert house.decide() == ["Load m 1"]
    assert house.reconciler.wake_at(house.now) is None


def test_a_hopeless_failure_waits_for_other_files(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.decide()
    house.reconciler.failed(house.loading(1), "unknown field", house.now, is_final=True)
    house.now += 1e6
    assert house.decide() == []
    assert house.reconciler.wake_at(house.now) is None
    house.reconciler.observe(snapshot(m={1: 7}))
    assert house.decide() == ["Load m 1"]


def test_a_version_that_is_put_right_is_loaded_at_once(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.decide()
    house.reconciler.failed(house.loading(1), "truncated", house.now)
    house.reconciler.observe(snapshot(m={1: 1}))
    assert house.decide() == ["Load m 1"]
    assert house.loading(1).failures == 0


def test_files_that_change_during_the_load_start_it_anew(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.decide()
    house.reconciler.observe(snapshot(m={1: 1}))
    assert sorted(house.decide()) == ["Load m 1", "Unload m 1"]


def test_files_that_change_in_place_are_refused_and_reported(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m={1: 1}))
    assert house.decide() == ["Verify m 1"]
    verify = house.actions[0]
    assert isinstance(verify, Verify)
    house.reconciler.verified(verify.attempt, verify.listing, "another digest")
    assert house.decide() == []
    assert house.ready() == (1,)
    assert house.events[-1].action == "version-changed-in-place"
    assert house.reconciler.index() == [IndexRow("m", "1", "READY", CHANGED_IN_PLACE)]


def test_files_that_were_only_touched_are_the_same_version(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m={1: 1}))
    house.decide()
    verify = house.actions[0]
    assert isinstance(verify, Verify)
    house.reconciler.verified(verify.attempt, verify.listing, "digest of 1")
    assert house.decide() == []
    assert house.reconciler.index() == [IndexRow("m", "1", "READY")]
    assert "version-changed-in-place" not in [event.action for event in house.events]


def test_files_that_are_put_back_are_verified_again(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    for stamp, digest in ((1, "another"), (2, "digest of 1")):
        house.reconciler.observe(snapshot(m={1: stamp}))
        assert house.decide() == ["Verify m 1"]
        verify = house.actions[0]
        assert isinstance(verify, Verify)
        house.reconciler.verified(verify.attempt, verify.listing, digest)
    assert house.reconciler.index() == [IndexRow("m", "1", "READY")]


def test_files_that_could_not_be_verified_are_verified_later(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m={1: 1}))
    house.decide()
    house.reconciler.not_verified(house.actions[0].attempt)
    assert house.decide() == ["Verify m 1"]


def test_a_configuration_change_reloads_beside(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m=listing("m", [1], "instance_group { count: 2 }")))
    assert house.decide() == ["Load m 1"]
    assert house.ready() == (1,)
    house.reconciler.loaded(house.loading(1), "", house.now)
    assert house.decide() == ["Unload m 1"]
    assert house.ready() == (1,)


def test_a_comment_in_the_configuration_reloads_nothing(house: House):
    house.reconciler.observe(snapshot(m=listing("m", [1], "max_batch_size: 4")))
    house.load(1)
    house.reconciler.observe(snapshot(m=listing("m", [1], "max_batch_size: 4  # as measured")))
    assert house.decide() == []


def test_a_version_policy_change_reloads_nothing_that_is_loaded(house: House):
    house.reconciler.observe(snapshot(m=[1, 2]))
    house.load(2)
    house.reconciler.observe(snapshot(m=listing("m", [1, 2], "version_policy { all {} }")))
    assert house.decide() == ["Load m 1"]


def test_a_configuration_that_cannot_be_read_changes_nothing(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    for _ in range(2):
        house.reconciler.observe(snapshot(m=listing("m", [1, 2], "max_batch_size: many")))
        assert house.decide() == []
    assert house.ready() == (1,)
    assert [event.action for event in house.events].count("config-refused") == 1
    house.reconciler.observe(snapshot(m=listing("m", [1, 2], "max_batch_size: 4")))
    assert house.decide() == ["Load m 2"]


def test_a_model_that_comes_back_with_a_configuration_that_cannot_be_read_keeps_what_serves(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot())
    house.reconciler.observe(snapshot(m=listing("m", [1], "broken:")))
    assert house.decide() == []
    assert house.ready() == (1,)


def test_a_model_with_a_configuration_that_never_could_be_read_is_unavailable(house: House):
    house.reconciler.observe(snapshot(m=listing("m", [1], "ensemble_scheduling {}")))
    assert house.decide() == []
    assert not house.reconciler.is_ready()
    (row,) = house.reconciler.index()
    assert row.state == "UNAVAILABLE"
    assert "ensembles are not served" in row.reason


@pytest.mark.parametrize(
    ("policy", "loads"),
    [
        ("latest { num_versions: 2 }", ["Load m 4", "Load m 3"]),
        ("latest { }", ["Load m 4"]),
        ("all { }", ["Load m 4", "Load m 3", "Load m 1"]),
        ("specific { versions: [1, 9] }", ["Load m 1"]),
    ],
)
def test_the_version_policy_chooses(policy: str, loads: list[str]):
    house = House(load_parallelism=9)
    house.reconciler.observe(snapshot(m=listing("m", [1, 3, 4], f"version_policy {{ {policy} }}")))
    assert house.decide() == loads


def test_a_policy_that_names_what_is_not_there_unloads_nothing(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m=listing("m", [1], "version_policy { specific { versions: 7 } }")))
    assert house.decide() == []
    assert house.ready() == (1,)


def test_removing_the_newest_version_brings_the_one_before_back_first(house: House):
    house.reconciler.observe(snapshot(m=[1, 2]))
    house.load(2)
    house.reconciler.observe(snapshot(m=[1]))
    assert house.decide() == ["Load m 1"]
    assert house.ready() == (2,)
    house.reconciler.loaded(house.loading(1), "", house.now)
    assert house.decide() == ["Unload m 2"]
    assert house.ready() == (1,)


def test_removing_a_model_unloads_it_and_forgets_it(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot())
    assert house.decide() == ["Unload m 1"]
    assert house.reconciler.is_ready()
    house.finish_unload(1)
    house.decide()
    assert house.reconciler.index() == []


def test_a_model_that_cannot_be_read_keeps_what_it_has(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m=listing("m", [1], problem="permission denied")))
    assert house.decide() == []
    assert house.ready() == (1,)


def test_load_parallelism_is_kept_and_models_without_a_version_go_first():
    house = House(load_parallelism=2)
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.observe(snapshot(m=[1, 2], n=[1], o=[1]))
    assert house.decide() == ["Load n 1", "Load o 1"]
    assert house.decide() == []
    assert house.reconciler.wake_at(house.now) is None
    attempt = next(each for each in house.reconciler._models["n"].attempts)
    house.reconciler.failed(attempt, "no", house.now)
    assert house.decide() == ["Load m 2"]


def test_a_retry_gives_way_to_a_first_attempt():
    house = House(load_parallelism=1)
    house.reconciler.observe(snapshot(a=[1], b=[1]))
    assert house.decide() == ["Load a 1"]
    house.reconciler.failed(house.loading(1), "no", house.now)
    house.now += 10
    assert house.decide() == ["Load b 1"]


def test_a_version_whose_workers_keep_dying_is_unavailable_until_one_stays_up(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    attempt = house.in_state(1, State.READY)
    house.reconciler.died(attempt, "killed by SIGSEGV", house.now)
    assert house.ready() == ()
    assert not house.reconciler.is_ready()
    assert house.decide() == []  # its own instances go on trying
    assert house.reconciler.index() == [IndexRow("m", "1", "UNAVAILABLE", "killed by SIGSEGV")]
    house.reconciler.recovered(attempt, house.now)
    assert house.ready() == (1,)


def test_a_dead_version_leaves_at_once_when_it_is_not_wanted_any_more(house: House):
    house.reconciler.observe(snapshot(m=[1]))
    house.load(1)
    house.reconciler.died(house.in_state(1, State.READY), "killed", house.now)
    house.reconciler.observe(snapshot(m=[1, 2]))
    assert sorted(house.decide()) == ["Load m 2", "Unload m 1"]


def test_problems_of_the_source_are_reported_once(house: House):
    problems = (Problem("m/01", "leading zero"),)
    for _ in range(3):
        house.reconciler.observe(Snapshot({}, problems))
    assert [event.fields["path"] for event in house.events if event.action == "repository-problem"] == ["m/01"]


def test_shutting_down_unloads_everything(house: House):
    house.reconciler.observe(snapshot(m=[1], n=[1]))
    house.decide()
    house.reconciler.loaded(next(iter(house.reconciler._models["m"].attempts)), "", house.now)
    house.reconciler.shut()
    assert sorted(house.decide()) == ["Unload m 1", "Unload n 1"]
    assert not house.reconciler.is_ready()
    for name in "mn":
        house.reconciler.unloaded(house.reconciler._models[name].attempts[0], house.now)
    assert house.reconciler.is_idle()
    assert house.decide() == []


# Explicit mode


@pytest.fixture
def explicit() -> House:
    house = House(is_explicit=True)
    house.reconciler.observe(snapshot(m=[1, 2], n=[1]))
    return house


def test_in_explicit_mode_nothing_is_loaded_by_itself(explicit: House):
    assert explicit.decide() == []
    assert explicit.reconciler.is_ready()
    assert explicit.reconciler.index() == [IndexRow("m"), IndexRow("n")]


def test_a_request_loads_and_a_release_unloads(explicit: House):
    assert explicit.reconciler.request("m")
    assert explicit.reconciler.outcome("m") is None
    assert explicit.reconciler.is_ready(), "a server is as ready while it loads what somebody asked for"
    explicit.load(2)
    assert explicit.reconciler.outcome("m") == ""
    assert explicit.reconciler.release("m")
    assert explicit.decide() == ["Unload m 2"]
    assert not explicit.reconciler.is_gone("m")
    explicit.finish_unload(2)
    assert explicit.reconciler.is_gone("m")
    assert explicit.reconciler.request("m")
    assert explicit.decide() == ["Load m 2"]


def test_a_request_for_what_is_not_there_is_refused(explicit: House):
    assert not explicit.reconciler.request("x")
    assert not explicit.reconciler.release("x")
    assert explicit.reconciler.release("n")


def test_what_appears_in_the_source_waits_for_a_request(explicit: House):
    explicit.reconciler.request("m")
    explicit.load(2)
    explicit.reconciler.observe(snapshot(m=[1, 2, 3]))
    assert explicit.decide() == []
    explicit.reconciler.request("m")
    assert explicit.decide() == ["Load m 3"]


def test_what_vanishes_from_the_source_stays_loaded_until_it_is_released(explicit: House):
    explicit.reconciler.request("m")
    explicit.load(2)
    explicit.reconciler.observe(snapshot())
    assert explicit.decide() == []
    assert explicit.ready() == (2,)
    assert explicit.reconciler.release("m")
    assert explicit.decide() == ["Unload m 2"]


def test_a_request_says_why_it_failed_and_the_next_tries_at_once(explicit: House):
    explicit.reconciler.request("n")
    explicit.decide()
    explicit.reconciler.failed(explicit.loading(1), "not a model", explicit.now)
    assert explicit.reconciler.outcome("n") == "version 1: not a model"
    explicit.reconciler.request("n")
    assert explicit.decide() == ["Load n 1"]


def test_a_configuration_in_the_request_replaces_the_one_in_the_source(explicit: House):
    explicit.reconciler.request("m", parse("version_policy { all {} }", "m"))
    assert explicit.decide() == ["Load m 2", "Load m 1"]
    explicit.reconciler.request("m", WrittenConfig(parse("", "m").config))
    assert explicit.decide() == ["Unload m 1"]


def test_a_request_with_an_empty_choice_says_so(explicit: House):
    explicit.reconciler.request("m", parse("version_policy { specific { versions: 9 } }", "m"))
    explicit.decide()
    assert explicit.reconciler.outcome("m") == "the version policy chooses none of its versions"


def test_a_wanted_model_that_is_missing_keeps_the_server_from_being_ready(explicit: House):
    explicit.reconciler.miss("x", "not in the model repository")
    explicit.decide()
    assert not explicit.reconciler.is_ready()
    assert IndexRow("x", "", "UNAVAILABLE", "not in the model repository") in explicit.reconciler.index()
    explicit.reconciler.release("x")
    assert explicit.reconciler.is_ready()


# Whatever happens, in whatever order

CONFIGS = [None, "max_batch_size: 4", "version_policy { latest { num_versions: 2 } }", "version_policy { all {} }"]
CONFIGS += ["version_policy { specific { versions: [1, 3] } }", "broken:"]


class AnyOrder(RuleBasedStateMachine):
    """Two models whose versions appear, change and vanish, and whose loads end as they like.

    `good` is the truth about each file: only a good one loads. A READY version may leave only when it is gone from
    what is wanted and everything wanted is READY, or its model is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.house = House(load_parallelism=2)
        self.reconciler = self.house.reconciler
        self.files: dict[str, dict[int, int]] = {}
        self.configs: dict[str, str | None] = {}
        self.loading: list[Attempt] = []
        self.unloading: list[Attempt] = []
        self.verifying: list[Verify] = []

    def is_good(self, attempt: Attempt) -> bool:
        return attempt.listing.files[0].mtime_ns % 3 != 2

    def observe(self) -> None:
        models = {name: listing(name, files, self.configs.get(name)) for name, files in self.files.items()}
        self.reconciler.observe(Snapshot(models))

    @rule(name=st.sampled_from("mn"), version=st.integers(1, 4), stamp=st.integers(0, 5))
    def appear_or_change(self, name: str, version: int, stamp: int) -> None:
        self.files.setdefault(name, {})[version] = stamp
        self.observe()

    @rule(name=st.sampled_from("mn"), version=st.integers(1, 4))
    def vanish(self, name: str, version: int) -> None:
        self.files.get(name, {}).pop(version, None)
        self.observe()

    @rule(name=st.sampled_from("mn"))
    def model_vanishes(self, name: str) -> None:
        self.files.pop(name, None)
        self.observe()

    @rule(name=st.sampled_from("mn"), config=st.sampled_from(CONFIGS))
    def configure(self, name: str, config: str | None) -> None:
        self.configs[name] = config
        self.observe()

    @rule()
    def decide(self) -> None:
        ready = {name: self.reconciler.ready_versions(name) for name in "mn"}
        for action in self.reconciler.decide(self.house.now):
            match action:
                case Load(attempt):
                    self.loading.append(attempt)
                case Unload(attempt):
                    if attempt in self.loading:
                        self.loading.remove(attempt)
                    elif attempt.is_live:
                        self.check_may_leave(attempt, ready[attempt.model])
                    self.unloading.append(attempt)
                case Verify():
                    self.verifying.append(action)

    def check_may_leave(self, attempt: Attempt, ready: tuple[int, ...]) -> None:
        model = self.reconciler._models[attempt.model]
        if attempt.version not in ready:
            return  # it was dead
        if not self.files.get(attempt.model):
            return  # the model, or all of its versions, are gone
        wanted = self.reconciler._wanted(model)
        successor = wanted.get(attempt.version)
        if successor is not None:
            assert model.is_ready(attempt.version, successor)
        else:
            assert wanted
            assert all(model.is_ready(*each) for each in wanted.items())

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), by_chance=st.booleans())
    def finish_load(self, data: st.DataObject, by_chance: bool) -> None:
        attempt = self.loading.pop(data.draw(st.integers(0, len(self.loading) - 1)))
        if self.is_good(attempt) and not by_chance:
            self.reconciler.loaded(attempt, str(attempt.listing.files[0].mtime_ns), self.house.now)
        else:
            self.reconciler.failed(attempt, "broken", self.house.now)

    @precondition(lambda self: self.unloading)
    @rule(data=st.data())
    def finish_unload(self, data: st.DataObject) -> None:
        attempt = self.unloading.pop(data.draw(st.integers(0, len(self.unloading) - 1)))
        self.reconciler.unloaded(attempt, self.house.now)

    @precondition(lambda self: self.verifying)
    @rule(can=st.booleans())
    def verify(self, can: bool) -> None:
        action = self.verifying.pop()
        if can:
            self.reconciler.verified(action.attempt, action.listing, str(action.listing.files[0].mtime_ns))
        else:
            self.reconciler.not_verified(action.attempt)

    def live(self) -> list[Attempt]:
        return [each for model in self.reconciler._models.values() for each in model.attempts if each.is_live]

    @precondition(lambda self: any(each.state is State.READY for each in self.live()))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        ready = [each for each in self.live() if each.state is State.READY]
        self.reconciler.died(data.draw(st.sampled_from(ready)), "killed", self.house.now)

    @precondition(lambda self: any(each.state is State.UNAVAILABLE for each in self.live()))
    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        dead = [each for each in self.live() if each.state is State.UNAVAILABLE]
        self.reconciler.recovered(data.draw(st.sampled_from(dead)), self.house.now)

    @rule(seconds=st.floats(0.1, 20))
    def wait(self, seconds: float) -> None:
        self.house.now += seconds

    @invariant()
    def at_most_two_load(self) -> None:
        assert len(self.loading) <= 2

    @invariant()
    def states_are_those_of_the_work_under_way(self) -> None:
        every = [each for model in self.reconciler._models.values() for each in model.attempts]
        assert {id(each) for each in every if each.state is State.LOADING} == {id(each) for each in self.loading}
        assert {id(each) for each in every if each.state is State.UNLOADING} == {id(each) for each in self.unloading}

    @rule()
    def settle(self) -> None:
        """Left alone, with every load of a good file succeeding, what is wanted and good is READY, and nothing else of
        a model all of whose wanted versions are good."""
        self.observe()
        for _ in range(60):
            self.decide()
            for each in list(self.loading):
                self.loading.remove(each)
                if self.is_good(each):
                    self.reconciler.loaded(each, str(each.listing.files[0].mtime_ns), self.house.now)
                else:
                    self.reconciler.failed(each, "broken", self.house.now)
            while self.unloading:
                self.reconciler.unloaded(self.unloading.pop(), self.house.now)
            while self.verifying:
                self.verify(True)
            for each in self.live():
                if each.state is State.UNAVAILABLE:
                    self.reconciler.recovered(each, self.house.now)
            self.house.now += 3.0
        assert self.reconciler.wake_at(self.house.now + 100) is None
        for name, model in self.reconciler._models.items():
            wanted = self.reconciler._wanted(model)
            good = {version for version, revision in wanted.items() if revision.files[0].mtime_ns % 3 != 2}
            ready = set(self.reconciler.ready_versions(name))
            assert good <= ready
            if wanted and good == wanted.keys():
                assert ready == good


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
