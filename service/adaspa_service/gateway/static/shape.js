// Buttons for what people think in, a picture's shape and a clip's length, beside the list of exact values.
import { el } from "./dom.js";
import { short } from "./format.js";

const RATIOS = [[1, 1], [16, 9], [9, 16], [4, 3], [3, 4], [3, 2], [2, 3], [16, 10], [10, 16], [21, 9], [9, 21], [2, 1], [1, 2]];
const LENGTHS = [2, 3, 4, 5, 6, 8, 10, 15, 20];
const MOST = 5; // buttons in a row

const area = (size) => size.split("x").reduce((product, side) => product * side, 1);
const apart = (one, other) => Math.abs(Math.log(one / other));
const closest = (values, distance) => values.reduce((best, value) => (distance(value) < distance(best) ? value : best));

// The usual name of a size's shape: 832x480 is made for 16:9 screens.
export function ratio(size) {
  const [width, height] = size.split("x").map(Number);
  const [across, down] = closest(RATIOS, ([a, b]) => apart(a / b, width / height));
  return apart(across / down, width / height) < 0.05 ? `${across}:${down}` : `${(width / height).toFixed(2)}:1`;
}

// A group of buttons that set the list's value; null when there is nothing to choose from.
function buttons(label, select, offers) {
  if (offers().length < 2) return null;
  const group = el("div", { className: "choices", role: "group", aria: { label } });
  group.mark = () => {
    const now = offers();
    if (group.childElementCount !== now.length) group.replaceChildren(...now.map(() => el("button", { type: "button" })));
    now.forEach(({ text, icon, on, value }, place) => {
      const button = group.children[place];
      if (button.dataset.text !== text) button.replaceChildren(...(icon ? [icon] : []), text);
      button.dataset.text = text;
      button.setAttribute("aria-pressed", on);
      button.onclick = () => {
        if (!on) select.value = value;
        select.dispatchEvent(new Event("input", { bubbles: true }));
      };
    });
    group.classList.toggle("many", now.length > 3);
  };
  return group;
}

export function shapes(select, sizes) {
  return buttons("Aspect ratio", select, () => [...new Set(sizes.map(ratio))].map((name) => {
    const icon = el("i", { aria: { hidden: true } });
    icon.style.setProperty("--shape", name.replace(":", " / "));
    const same = sizes.filter((size) => ratio(size) === name);
    return { text: name, icon, on: ratio(select.value) === name, value: closest(same, (size) => apart(area(size), area(select.value))) };
  }));
}

export function lengths(select, frames, fps) {
  return buttons("Usual lengths", select, () => few(frames, fps()).map((count) => ({ text: `${short((count - 1) / fps())} s`, on: Number(select.value) === count, value: count })));
}

// All of a few lengths; of many, those next to whole seconds.
function few(frames, fps) {
  if (frames.length <= MOST) return frames;
  const longest = Math.max(...frames) / fps;
  const whole = LENGTHS.filter((seconds) => seconds < longest + 0.5);
  const near = whole.map((seconds) => closest(frames, (count) => Math.abs((count - 1) / fps - seconds)));
  return [...new Set(near)].slice(0, MOST);
}
