// Elements without markup in strings: text from outside stays text.
export const $ = (selector) => document.querySelector(selector);

export function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

let timer;
export function note(text) {
  $("#note").textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => ($("#note").textContent = ""), 4000);
}
