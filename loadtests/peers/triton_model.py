"""The tabular model for Triton's python backend: the whole batch in one session.run."""

import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.path.join(args["model_repository"], "tabular.onnx"), options)

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(request, "features").as_numpy() for request in requests]
        scores = self.session.run(None, {"features": np.concatenate(rows)})[0]
        answers, at = [], 0
        for batch in rows:
            part = scores[at : at + len(batch)]
            at += len(batch)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("scores", part)]))
        return answers
