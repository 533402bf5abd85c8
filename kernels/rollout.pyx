# How the requests of one model are divided among versions, and what is counted of it. Knows no queue and no signature.
cimport cython
from libc.stdint cimport int8_t, uint8_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

import os
import re
from collections import namedtuple

from kernels.exchange cimport Exchange
from kernels.infer cimport Attribute, string_view
from kernels.mirror cimport Mirror

ArmEvents = namedtuple("ArmEvents", "model kind is_canary version weight level events code unit at")
ArmCounts = namedtuple("ArmCounts", "version weight canary stable canary_failed stable_failed retried")

cdef enum:
    MAX_VALUE = 256     # bytes of a header or a parameter that rules and stickiness look at
    MAX_ROWS = 4096     # events that wait; further ones are not told, which only loses evidence

cdef double PEAK_SECONDS = 1.0
cdef tuple KINDS = ("failed", "slow")


@cython.final
cdef class ArmTally:
    def __init__(self, str version not None, double weight):
        self.version = version
        self.weight = weight

    def counts(self):
        return ArmCounts(self.version, self.weight, self.canary, self.stable, self.canary_failed, self.stable_failed,
                         self.retried)


@cython.final
cdef class Rollout:
    def __init__(self, str model not None, stable, arms, *, rules=(), sticky=None, bint retry=True,
                 bytes salt=bytes(16), thresholds=(), first_draw=None, Mirror mirror=None):
        cdef double total = 0.0, weight
        cdef uint64_t start = int.from_bytes(os.urandom(8), "little") if first_draw is None else first_draw
        cdef ArmTally tally
        if len(salt) != 16:
            raise ValueError(f"salt: 16 bytes are needed, not {len(salt)}")
        if len(arms) > MAX_ARMS:
            raise ValueError(f"arms: {MAX_ARMS} at most, not {len(arms)}")
        if len(thresholds) > 3:
            raise ValueError(f"thresholds: 3 at most, not {len(thresholds)}")
        self.model = model
        self.stable = stable
        self.targets = []
        self.tallies = []
        self.is_counted = stable is not None
        for target, weight, tally in arms:
            total += weight
            self.targets.append(target)
            self.tallies.append(tally)
            self.ends.push_back(total)
            self.is_counted = self.is_counted and target is not None
        self.rules = tuple([
            (header.encode(), kind, re.compile(value) if kind == "regex" else value, target, self._arm_with(target))
            for header, kind, value, target in rules])
        self.sticky = sticky
        if sticky is not None:
            kind, name = sticky
            self.is_cookie = kind == "cookie"
            self.is_parameter = kind == "parameter"
            self.sticky_name = name.encode()
        self.retries = retry
        self.mirror = mirror
        memcpy(&self.key, <const char*>salt, 16)
        self.last_draw = start
        self.levels = len(thresholds)
        for i, seconds in enumerate(thresholds):
            self.thresholds[<int>i] = seconds
        self.peak = self.last_peak = 1

    def _arm_with(self, target):
        return self.targets.index(target) if target is not None and target in self.targets else RULED

    @property
    def headers(self):
        """Names of the headers that it wants to see, in lower case."""
        names = {rule[0].decode() for rule in self.rules}
        if self.sticky is not None and not self.is_parameter:
            names.add("cookie" if self.is_cookie else self.sticky[1].lower())
        return names

    @property
    def parameters(self):
        """Names of the request parameters that it wants to see."""
        return {self.sticky[1]} if self.is_parameter else set()

    def pick_unit(self, bytes unit not None):
        return self.arm_of(to_share(draw(self.key, <const char*>unit, len(unit))))

    def pick_next(self):
        self.last_draw += 1
        return self.arm_of(to_share(draw(self.key, &self.last_draw, sizeof(self.last_draw))))

    # Dividing

    cdef object divide(self, Exchange x):
        cdef string_view unit
        cdef int arm
        cdef uint64_t drawn
        x.rollout = self
        if self.rules and not x.request.attributes.empty():
            rule = self.rule_for(x)
            if rule is not None:
                x.arm = rule[4] if rule[3] is not None and rule[3] is not self.stable else -1
                return rule[3] if rule[3] is not None else self.stable
        if self.sticky is not None and self.find_unit(x, &unit):
            drawn = draw(self.key, unit.data(), unit.size())
            x.unit = drawn
            x.has_unit = True
        else:
            self.last_draw += 1
            drawn = draw(self.key, &self.last_draw, sizeof(self.last_draw))
        arm = self.arm_of(to_share(drawn))
        if arm >= 0:
            target = self.targets[arm]
            if target is not None:
                x.arm = <int8_t>arm
                x.counted = self.is_counted
                return target
        x.arm = -1
        x.counted = self.is_counted
        return self.stable

    cdef cbool is_sampled(self) noexcept:
        self.last_draw += 1
        return to_share(draw(self.key, &self.last_draw, sizeof(self.last_draw))) < self.mirror.fraction

    cdef int arm_of(self, double share) noexcept:
        cdef size_t i
        for i in range(self.ends.size()):
            if share < self.ends[i]:
                return <int>i
        return -1

    cdef cbool find_unit(self, Exchange x, string_view* unit) noexcept:
        cdef size_t i
        cdef Attribute* found
        cdef string_view name = string_view(self.sticky_name.data(), self.sticky_name.size())
        cdef string_view value
        for i in range(x.request.attributes.size()):
            found = &x.request.attributes[i]
            if found.is_parameter != self.is_parameter:
                continue
            if self.is_cookie:
                if not (found.name == string_view(b"cookie", 6)):
                    continue
                value = cookie_value(found.value, name)
            elif found.name == name:
                value = found.value
            else:
                continue
            if 0 < value.size() <= MAX_VALUE:
                unit[0] = value
                return True
        return False

    cdef object rule_for(self, Exchange x):
        cdef size_t i
        cdef Attribute* found
        cdef bytes header
        for rule in self.rules:
            header = rule[0]
            for i in range(x.request.attributes.size()):
                found = &x.request.attributes[i]
                if found.is_parameter or found.value.size() > MAX_VALUE:
                    continue
                if not (found.name == string_view(<const char*>header, len(header))):
                    continue
                value = found.value.data()[:found.value.size()].decode("latin-1")
                if rule[1] == "exact":
                    matches = value == rule[2]
                elif rule[1] == "prefix":
                    matches = value.startswith(rule[2])
                else:
                    matches = rule[2].fullmatch(value) is not None
                if matches:
                    return rule
        return None

    # Counting

    cdef void ended(self, Exchange x) noexcept:
        cdef ArmTally tally
        if x.arm >= 0:
            tally = <ArmTally>self.tallies[x.arm]
            tally.canary += 1
            return
        for tally in self.tallies:
            tally.stable += 1

    cdef void failed(self, Exchange x, int code, double now) noexcept:
        cdef ArmTally tally
        if x.arm >= 0:
            self.fail_unrun(x.arm, x.has_unit, x.unit, code, now)
            return
        for tally in self.tallies:
            tally.stable += 1
            tally.stable_failed += 1
        self.add(x.arm, x.has_unit, x.unit, FAILED, 0, code, now)

    cdef void fail_unrun(self, int arm, cbool has_unit, uint64_t unit, int code, double now) noexcept:
        cdef ArmTally tally = <ArmTally>self.tallies[arm]
        tally.canary += 1
        tally.canary_failed += 1
        self.add(arm, has_unit, unit, FAILED, 0, code, now)

    cdef void slow(self, Exchange x, int level, double now) noexcept:
        self.add(x.arm, x.has_unit, x.unit, SLOW, level, 0, now)

    cdef void moved(self, int arm) noexcept:
        cdef ArmTally tally
        if 0 <= arm < <int>len(self.tallies):
            tally = <ArmTally>self.tallies[arm]
            tally.retried += 1

    cdef void add(self, int arm, cbool has_unit, uint64_t unit, EventKind kind, int level, int code,
                  double now) noexcept:
        cdef EventRow row
        cdef size_t i
        if not has_unit:
            for i in range(self.rows.size()):
                if (self.rows[i].arm == arm and self.rows[i].kind == kind and self.rows[i].level == level and
                        not self.rows[i].has_unit):
                    self.rows[i].count += 1
                    self.rows[i].code = code
                    self.rows[i].at = now
                    return
        if self.rows.size() >= MAX_ROWS:
            return
        row.arm = <int8_t>arm
        row.kind = <uint8_t>kind
        row.level = <uint8_t>level
        row.has_unit = has_unit
        row.unit = unit
        row.code = code
        row.count = 1
        row.at = now
        self.rows.push_back(row)

    cdef int level_of(self, double seconds) noexcept:
        cdef int level = 0
        while level < self.levels and seconds > self.thresholds[level]:
            level += 1
        return level

    cdef size_t observed(self, size_t members, double now) noexcept:
        if now - self.peak_since > PEAK_SECONDS:
            self.last_peak = self.peak
            self.peak = 1
            self.peak_since = now
        if members > self.peak:
            self.peak = members
        cdef size_t most = max(self.peak, self.last_peak)
        if most == 1:
            return 0
        self.last_draw += 1
        return draw(self.key, &self.last_draw, sizeof(self.last_draw)) % most

    cdef void drain(self, list events):
        cdef vector[EventRow] rows
        cdef EventRow row
        cdef ArmTally tally
        rows.swap(self.rows)
        self.is_reported = False
        for row in rows:
            unit = row.unit if row.has_unit else None
            for i, tally in enumerate(self.tallies):
                if row.arm < 0 or row.arm == i:
                    events.append(ArmEvents(self.model, KINDS[row.kind], row.arm >= 0, tally.version, tally.weight,
                                            row.level, row.count, row.code, unit, row.at))


cdef string_view cookie_value(string_view text, string_view name) noexcept:
    # `a=1; b=2`, as RFC 6265 has it: the first of the name.
    cdef size_t at = 0, end, equals
    cdef const char* data = text.data()
    while at < text.size():
        while at < text.size() and (data[at] == c" " or data[at] == c";"):
            at += 1
        end = at
        while end < text.size() and data[end] != c";":
            end += 1
        equals = at
        while equals < end and data[equals] != c"=":
            equals += 1
        if equals < end and string_view(data + at, equals - at) == name:
            at = equals + 1
            while end > at and data[end - 1] == c" ":
                end -= 1
            return string_view(data + at, end - at)
        at = end
    return string_view()
