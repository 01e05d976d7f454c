// node generate.mjs OUTPUT: makes a video with the Vercel AI SDK. Set ADASPA_SERVER to the service's address and ADASPA_API_KEY
// to your key.
import { writeFile } from "node:fs/promises";
import { experimental_generateVideo as generateVideo } from "ai";
import { createAdaSpa } from "./adaspa.mjs";

const adaspa = createAdaSpa({ baseURL: `${process.env.ADASPA_SERVER ?? "http://127.0.0.1:8000"}/v1`, apiKey: process.env.ADASPA_API_KEY });
const { video, providerMetadata } = await generateVideo({
  model: adaspa.video("demo"),
  prompt: "a large red circle moves left",
  resolution: "128x128",
  seed: 7,
  providerOptions: { adaspa: { steps: 4, quality: "fast" } },
});
await writeFile(process.argv[2], video.uint8Array);
console.log(providerMetadata.adaspa.videos[0].id, video.mediaType, video.uint8Array.length);
