// One video on the stage, while it is made and when it has ended.
import { DONE, look } from "./api.js";
import { result } from "./result.js";
import { running } from "./running.js";
import { heading, name, put, speak } from "./stage.js";

// A view of the stage. It calls back when the job has ended.
export const job = (id, onEnded) => async (signal, onDrawn) => {
  for (let first = true; !signal.aborted; first = false) {
    const video = await look(id, signal);
    heading(video.prompt);
    if (DONE.includes(video.status)) return ended(video, signal, onDrawn, onEnded);
    const view = running(video, signal, (now) => name(`${now.progress} %, ${video.prompt}`));
    put(...view.elements);
    if (first) onDrawn();
    const last = await view.ended; // none: the stream had nothing left, so look again
    if (last) return ended(last, signal, () => speak(`${words(last.status)}: ${last.prompt}`), onEnded);
  }
};

const words = (status) => ({ completed: "Ready", failed: "Failed", cancelled: "Cancelled" })[status] ?? status;

async function ended(video, signal, onDrawn, onEnded) {
  const elements = await result(video);
  if (signal.aborted) return;
  put(...elements);
  name(`${words(video.status)}: ${video.prompt}`);
  onDrawn();
  onEnded();
}
