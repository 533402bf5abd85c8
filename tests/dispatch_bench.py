"""The dispatcher over real lanes whose workers are the test's own hand, for tests of what it decides."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from gateway.pb import inference_pb2 as pb
from kernels.batching import BatchQueue
from kernels.deployment import Deployment
from kernels.dispatch import Dispatcher
from kernels.lanes import Lane, LanePort
from kernels.local import LocalCall
from kernels.routes import ModelRoute, RouteTable

OK, CANCELLED, INVALID, DEADLINE, NOT_FOUND, EXHAUSTED, INTERNAL, UNAVAILABLE = 0, 1, 3, 4, 5, 8, 13, 14
FP32, BYTES = 11, 13
SLOT = 64 * 1024


def tensor(name, datatype="FP32", shape=(-1, 2), index=0, **more):
    given = {"optional": False, "labels": (), "engine_shape": None, **more}
    return SimpleNamespace(name=name, datatype=datatype, shape=shape, index=index, **given)


def message(rows, *, model="m", version="", outputs=(), name="x", datatype="FP32", identity="", **parameters):
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=identity)
    values = np.asarray(rows, "<f4")
    request.inputs.add(name=name, datatype=datatype, shape=values.shape)
    request.raw_input_contents.append(values.tobytes())
    for output, k in outputs:
        wanted = request.outputs.add(name=output)
        if k:
            wanted.parameters["classification"].int64_param = k
    for key, value in parameters.items():
        request.parameters[key].int64_param = value
    return request.SerializeToString()


class Answer:
    """What became of one call."""

    def __init__(self, bench, data, deadline=0.0):
        self.code = None
        self.call = LocalCall(bench.dispatcher, data, deadline, self._done)

    def _done(self, code, text, body, retry_after):
        assert self.code is None, "answered twice"
        self.code, self.text, self.retry_after = code, text.decode(), retry_after
        self.body = pb.ModelInferResponse.FromString(body)

    @property
    def values(self):
        return np.frombuffer(self.body.raw_output_contents[0], "<f4").reshape(self.body.outputs[0].shape).tolist()


class Bench:
    """One deployment `m` version 1 with one lane; `work` is the worker's turn."""

    def __init__(self, inputs=None, outputs=None, *, max_batch_size=8, lanes=1, max_in_flight=1000, **more):
        self.soon = []
        self.dispatcher = Dispatcher(call_soon=self.soon.append, max_in_flight=max_in_flight)
        self.deployment = self.deploy("1", inputs, outputs, max_batch_size, **more)
        self.ports = {}
        self.lanes = [self.attach() for _ in range(lanes)]
        self.route({"1": self.deployment}, self.deployment)

    def deploy(self, version, inputs=None, outputs=None, max_batch_size=8, **more):
        deployment = Deployment(
            "m", version, inputs or [tensor("x")], outputs or [tensor("y")], max_batch_size=max_batch_size,
            queue=BatchQueue(max_batch_size=max_batch_size, max_rows=64, max_bytes=1 << 20), slot_bytes=SLOT, **more,
        )  # fmt: skip
        self.dispatcher.add(deployment)
        return deployment

    def attach(self):
        lane = Lane(SLOT)
        self.ports[lane] = LanePort(*lane.fds)
        self.deployment.attach(lane)
        return lane

    def route(self, versions, default):
        self.dispatcher.route_table = RouteTable({"m": ModelRoute(default, versions)})

    def send(self, data, deadline=0.0):
        return Answer(self, data, deadline)

    def settle(self):
        """The end of the loop's wake-up."""
        soon, self.soon[:] = list(self.soon), []
        for callback in soon:
            callback()

    def work(self, act=None, lane=None):
        """The worker runs one batch (doubling its input unless told otherwise) and rings; False when none waits."""
        lane = lane or self.lanes[0]
        port = self.ports[lane]
        slot = port.wait(0)
        if slot < 0:
            return False
        (act or self.double)(port, slot)
        self.deployment.collect(lane)
        return True

    @staticmethod
    def double(port, slot):
        ((_, x),) = port.inputs(slot)
        port.complete(slot, [(0, FP32, x.shape, x * 2)], 0, 0)

    def die(self, lane):
        self.deployment.detach(lane)
        self.lanes.remove(lane)
        lane.close()


def fail(code=INVALID, text="no"):
    return lambda port, slot: port.fail(slot, code, text)
