"""The tabular model as a Mosec service: JSON rows in, JSON scores out, dynamic batching in one worker process."""

import os
from typing import Any

import numpy as np
import onnxruntime
from mosec import Server, Worker


class Tabular(Worker):
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["TABULAR_MODEL"], options)

    def forward(self, data: list[Any]) -> list[Any]:
        rows = np.array([request["inputs"][0]["data"] for request in data], np.float32)
        scores = self.session.run(None, {"features": rows})[0]
        return [{"outputs": [{"name": "scores", "data": row.tolist()}]} for row in scores]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Tabular, num=1, max_batch_size=128, max_wait_time=1)
    server.run()
