// What this tab remembers over a reload; in a browser that stores nothing, until the page is left.
const held = new Map();

export function recall(name) {
  try {
    return sessionStorage.getItem(name);
  } catch {
    return held.get(name) ?? null;
  }
}

export function remember(name, text) {
  try {
    sessionStorage.setItem(name, text);
  } catch {
    held.set(name, text);
  }
}
