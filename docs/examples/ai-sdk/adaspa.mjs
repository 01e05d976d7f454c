// AdaSpa's video models for the Vercel AI SDK (specification 3). Copy this file into your project.
import { APICallError, UnsupportedFunctionalityError } from "@ai-sdk/provider";

const WAIT_MS = 1000; // unless the service says when to poll again

/**
 * @param {{ baseURL: string, apiKey?: string }} settings of the service: its address, such as http://127.0.0.1:8000/v1
 * @returns {{ video: (modelId: string) => import("@ai-sdk/provider").Experimental_VideoModelV3 }}
 */
export function createAdaSpa({ baseURL, apiKey }) {
  async function call(path, { headers, ...init }) {
    const url = `${baseURL}${path}`;
    const response = await fetch(url, { ...init, headers: { ...(apiKey && { Authorization: `Bearer ${apiKey}` }), ...headers } });
    if (response.ok) return response;
    const responseBody = await response.text();
    const message = JSON.parse(responseBody).error?.message ?? response.statusText;
    throw new APICallError({ message, url, requestBodyValues: init.body, statusCode: response.status, responseBody });
  }

  return { video: (modelId) => ({
    specificationVersion: "v3",
    provider: "adaspa",
    modelId,
    maxVideosPerCall: 8,
    async doGenerate({ prompt, n, aspectRatio, resolution, duration, fps, seed, image, frameImages, inputReferences, generateAudio, providerOptions, abortSignal, headers }) {
      if (aspectRatio) throw new UnsupportedFunctionalityError({ functionality: "aspectRatio; pass resolution, one of the model's sizes" });
      if (inputReferences?.length) throw new UnsupportedFunctionalityError({ functionality: "inputReferences; pass frameImages" });
      const frames = Object.fromEntries((frameImages ?? []).map(({ frameType, image }) => [frameType, asUrl(image)]));
      const body = {
        prompt, model: modelId, n, size: resolution, seconds: duration, fps, seed, audio: generateAudio,
        input_reference: image ? asUrl(image) : frames.first_frame,
        last_frame: frames.last_frame,
        ...providerOptions.adaspa, // steps, quality, negative_prompt, ...
      };
      const made = await call("/videos", { method: "POST", body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID() }, signal: abortSignal });
      const { data } = await made.json();
      try {
        const done = await Promise.all(data.map(({ id }) => ended(id, { headers, signal: abortSignal })));
        const videos = await Promise.all(done.map(({ id }) => file(id, { headers, signal: abortSignal })));
        return {
          videos,
          warnings: done.flatMap(({ warnings }) => warnings.map((message) => ({ type: "other", message }))),
          providerMetadata: { adaspa: { videos: done.map(({ id, seed, timings }) => ({ id, seed, timings })) } },
          response: { timestamp: new Date(), modelId, headers: Object.fromEntries(made.headers) },
        };
      } catch (error) {
        // Aborted, or one of them failed: the others are wanted no more.
        await Promise.allSettled(data.map(({ id }) => call(`/videos/${id}/cancel`, { method: "POST", headers })));
        throw error;
      }
    },
  }) };

  async function ended(id, options) {
    for (;;) {
      const response = await call(`/videos/${id}`, options);
      const video = await response.json();
      if (video.status === "completed") return video;
      if (["failed", "cancelled"].includes(video.status)) throw new Error(`${id} ${video.status}: ${video.error?.message ?? ""}`);
      options.signal?.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, Number(response.headers.get("openai-poll-after-ms") ?? WAIT_MS)));
    }
  }

  async function file(id, options) {
    const response = await call(`/videos/${id}/content`, options);
    return { type: "binary", data: new Uint8Array(await response.arrayBuffer()), mediaType: response.headers.get("content-type") };
  }
}

// An image as the service takes it: an address, or a data URI.
function asUrl({ type, url, data, mediaType }) {
  if (type === "url") return url;
  return `data:${mediaType};base64,${typeof data === "string" ? data : Buffer.from(data).toString("base64")}`;
}
