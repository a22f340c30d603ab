// The common script in Node: every outcome that a program would look at, as one JSON document.
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import {
  S3Client, PutObjectCommand, GetObjectCommand, HeadObjectCommand, ListObjectsV2Command,
  CopyObjectCommand, DeleteObjectsCommand, CreateMultipartUploadCommand, UploadPartCommand,
  CompleteMultipartUploadCommand,
} from "@aws-sdk/client-s3";

const [endpoint, accessKeyId, secretAccessKey, Bucket] = process.argv.slice(2);
const s3 = new S3Client({
  endpoint, region: "us-east-1", forcePathStyle: true, maxAttempts: 1,
  credentials: { accessKeyId, secretAccessKey },
});
const data = (n) => Buffer.alloc(n, "0123456789abcdef");
const sum = (b) => createHash("sha256").update(b).digest("hex");
const read = async (r) => Buffer.from(await r.Body.transformToByteArray());
const out = {};

for (const size of [0, 5, 70000]) {
  await s3.send(new PutObjectCommand({ Bucket, Key: `n/${size}`, Body: data(size),
    ContentType: "x/y", Metadata: { who: "node" } }));
  const got = await s3.send(new GetObjectCommand({ Bucket, Key: `n/${size}` }));
  out[`get ${size}`] = [sum(await read(got)), got.ContentLength, got.ContentType, got.Metadata];
}
// a stream is sent as aws-chunked with a trailing checksum, also in clear
await s3.send(new PutObjectCommand({ Bucket, Key: "n/stream", ContentLength: 300000,
  Body: Readable.from([data(100000), data(200000)]) }));
const stream = await s3.send(new GetObjectCommand({ Bucket, Key: "n/stream" }));
out.stream = sum(await read(stream));
const part = await s3.send(new GetObjectCommand({ Bucket, Key: "n/70000", Range: "bytes=100-40000" }));
out.range = [sum(await read(part)), part.ContentRange];
const { UploadId } = await s3.send(new CreateMultipartUploadCommand({ Bucket, Key: "n/multi" }));
const bodies = [data(5 * 1024 * 1024), data(5 * 1024 * 1024 + 16), data(32)];
const sent = await Promise.all(bodies.map((Body, i) =>
  s3.send(new UploadPartCommand({ Bucket, Key: "n/multi", UploadId, PartNumber: i + 1, Body }))));
await s3.send(new CompleteMultipartUploadCommand({ Bucket, Key: "n/multi", UploadId, MultipartUpload: {
  Parts: sent.map((p, i) => ({ PartNumber: i + 1, ETag: p.ETag, ChecksumCRC32: p.ChecksumCRC32 })) } }));
const multi = await s3.send(new GetObjectCommand({ Bucket, Key: "n/multi" }));
out.multi = [sum(await read(multi)), multi.ContentLength];
await s3.send(new CopyObjectCommand({ Bucket, Key: "n/copy", CopySource: `${Bucket}/n/70000` }));
const head = await s3.send(new HeadObjectCommand({ Bucket, Key: "n/copy" }));
out.copy = [head.ContentLength, head.Metadata];
const listed = await s3.send(new ListObjectsV2Command({ Bucket, Prefix: "n/" }));
out.list = listed.Contents.map((o) => [o.Key, o.Size]);
out.etags = listed.Contents.find((o) => o.Key === "n/copy").ETag === head.ETag;
for (const [name, options] of [["missing", { Key: "n/none" }], ["changed", { Key: "n/5", IfMatch: '"x"' }]]) {
  out[name] = await s3.send(new GetObjectCommand({ Bucket, ...options })).then(() => "ok", (e) => [e.name, e.$metadata.httpStatusCode]);
}
await s3.send(new DeleteObjectsCommand({ Bucket, Delete: { Objects: [{ Key: "n/copy" }, { Key: "n/5" }] } }));
const rest = await s3.send(new ListObjectsV2Command({ Bucket, Prefix: "n/" }));
out.rest = rest.Contents.map((o) => o.Key);
console.log(JSON.stringify(out));
