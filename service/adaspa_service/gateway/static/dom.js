// Elements without markup in strings: text from outside stays text.
export const $ = (selector) => document.querySelector(selector);

export function el(tag, properties = {}, ...children) {
  const { aria = {}, role, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  if (role) element.setAttribute("role", role);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  element.append(...children.filter((child) => child != null));
  return element;
}

// A short word at the foot of the page, read out too.
let timer;
export function note(text) {
  $("#note").textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => ($("#note").textContent = ""), 5000);
}

export async function copy(text, said = "Copied") {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, or a page that came over plain HTTP from another machine
    const area = document.body.appendChild(el("textarea", { value: text, className: "unseen" }));
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) return note("Your browser does not allow this page to copy.");
  }
  note(said);
}
