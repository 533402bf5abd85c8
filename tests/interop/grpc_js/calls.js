// Calls a gateway with the gRPC client of Node.js and prints what came back, as one JSON object.
// Usage: node calls.js HOST:PORT FOLDER_OF_PROTO_FILES
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const path = require("path");

const [address, proto] = process.argv.slice(2);
const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true, includeDirs: [proto] };
const load = (file) => grpc.loadPackageDefinition(loader.loadSync(path.join(proto, file), options));
const credentials = grpc.credentials.createInsecure();
const inference = new (load("inference.proto").inference.GRPCInferenceService)(address, credentials);
const health = new (load("health.proto").grpc.health.v1.Health)(address, credentials);

const unary = (client, method, request, metadata = new grpc.Metadata(), callOptions = {}) =>
  new Promise((resolve, reject) => {
    let trailers = {};
    client[method](request, metadata, callOptions, (error, answer) =>
      error ? reject(error) : setImmediate(() => resolve({ answer, trailers }))
    ).on("status", (status) => (trailers = status.metadata.getMap()));
  });

const floats = (values) => Buffer.from(Float32Array.from(values).buffer);
const request = (model, values, id = "") => ({
  model_name: model,
  id,
  inputs: [{ name: "x", datatype: "FP32", shape: [1, values.length] }],
  raw_input_contents: [floats(values)],
});
const numbers = (bytes) => Array.from(new Float32Array(Uint8Array.from(bytes).buffer));
const refusal = (promise) => promise.then(() => null, (error) => ({ code: error.code, text: error.details }));

function stream(requests) {
  return new Promise((resolve, reject) => {
    const call = inference.ModelStreamInfer();
    const replies = [];
    call.on("data", (reply) => replies.push(reply.error_message || reply.infer_response.id));
    call.on("error", reject);
    call.on("end", () => resolve(replies));
    requests.forEach((each) => call.write(each));
    call.end();
  });
}

function firstHealth() {
  return new Promise((resolve, reject) => {
    const call = health.Watch({ service: "" });
    call.on("error", (error) => (error.code === grpc.status.CANCELLED ? null : reject(error)));
    call.on("data", (reply) => {
      call.cancel();
      resolve(reply.status);
    });
  });
}

async function main() {
  const metadata = new grpc.Metadata();
  metadata.set("trace-bin", Buffer.from([0, 1, 255]));
  const inferred = await unary(inference, "ModelInfer", request("free", [1, 2], "7"), metadata);
  const many = await Promise.all(
    Array.from({ length: 200 }, (_, i) => unary(inference, "ModelInfer", request("free", [i, -i], String(i))))
  );
  const large = Array.from({ length: 300000 }, (_, i) => i);
  const slow = {
    model_name: "spinning",
    inputs: [
      { name: "iterations", datatype: "INT64", shape: [1, 1] },
      { name: "x", datatype: "FP32", shape: [1, 128] },
    ],
    raw_input_contents: [Buffer.from(BigInt64Array.from([100000n]).buffer), floats(new Array(128).fill(1))],
  };
  console.log(
    JSON.stringify({
      live: (await unary(inference, "ServerLive", {})).answer.live,
      metadata: (await unary(inference, "ModelMetadata", { name: "free" })).answer,
      id: inferred.answer.id,
      numbers: numbers(inferred.answer.raw_output_contents[0]),
      version: inferred.trailers["sluice-model-version"],
      many: many.every(({ answer }, i) => answer.id === String(i) && numbers(answer.raw_output_contents[0])[0] === i),
      large: numbers((await unary(inference, "ModelInfer", request("free", large))).answer.raw_output_contents[0]).length,
      unknown: await refusal(unary(inference, "ModelInfer", request("nothing", [1]))),
      late: await refusal(unary(inference, "ModelInfer", slow, undefined, { deadline: Date.now() + 100 })),
      stream: await stream([request("free", [1], "a"), request("nothing", [1], "b"), request("free", [3], "c")]),
      health: await firstHealth(),
    })
  );
  inference.close();
  health.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
