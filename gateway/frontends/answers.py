"""What the data plane says, as messages of the protocol. gRPC sends them as they are, HTTP prints them as JSON, so both
say the same."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.frontends import DataPlane, Duration, InferStatistics, ModelStatistics, TensorMetadata
from gateway.pb import inference_pb2 as pb


def server_metadata(plane: DataPlane) -> pb.ServerMetadataResponse:
    facts = plane.server_metadata()
    return pb.ServerMetadataResponse(name=facts.name, version=facts.version, extensions=facts.extensions)


def model_metadata(plane: DataPlane, name: str, version: str) -> pb.ModelMetadataResponse:
    facts = plane.model_metadata(name, version)
    return pb.ModelMetadataResponse(
        name=facts.name,
        versions=facts.versions,
        platform=facts.platform,
        inputs=_tensors(facts.inputs),
        outputs=_tensors(facts.outputs),
    )


def model_config(plane: DataPlane, name: str, version: str) -> pb.ModelConfigResponse:
    return pb.ModelConfigResponse(config=plane.model_config(name, version))


def model_statistics(plane: DataPlane, name: str = "", version: str = "") -> pb.ModelStatisticsResponse:
    return pb.ModelStatisticsResponse(model_stats=[_version(facts) for facts in plane.statistics(name, version)])


def repository_index(plane: DataPlane, ready: bool) -> pb.RepositoryIndexResponse:
    entry = pb.RepositoryIndexResponse.ModelIndex
    return pb.RepositoryIndexResponse(
        models=[
            entry(name=facts.name, version=facts.version, state=facts.state, reason=facts.reason)
            for facts in plane.repository_index(ready)
        ]
    )


def _tensors(tensors: Iterable[TensorMetadata]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    message = pb.ModelMetadataResponse.TensorMetadata
    return [message(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape) for tensor in tensors]


def _version(facts: ModelStatistics) -> pb.ModelStatistics:
    return pb.ModelStatistics(
        name=facts.name,
        version=facts.version,
        last_inference=facts.last_inference,
        inference_count=facts.inference_count,
        execution_count=facts.execution_count,
        inference_stats=_infer_statistics(facts.inference_stats),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=batch.batch_size,
                compute_input=_duration(batch.compute_input),
                compute_infer=_duration(batch.compute_infer),
                compute_output=_duration(batch.compute_output),
            )
            for batch in facts.batch_stats
        ],
    )


def _infer_statistics(facts: InferStatistics) -> pb.InferStatistics:
    # Load generators read every one of these, the cache's too: all are present, also when they are zero.
    return pb.InferStatistics(
        success=_duration(facts.success),
        fail=_duration(facts.fail),
        queue=_duration(facts.queue),
        compute_input=_duration(facts.compute_input),
        compute_infer=_duration(facts.compute_infer),
        compute_output=_duration(facts.compute_output),
        cache_hit=pb.StatisticDuration(),
        cache_miss=pb.StatisticDuration(),
    )


def _duration(facts: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=facts.count, ns=facts.ns)
