// What this tab remembers over a reload; what the browser does not store, until the page is left.
const held = new Map();

export function recall(name) {
  try {
    return held.get(name) ?? sessionStorage.getItem(name);
  } catch {
    return null;
  }
}

export function remember(name, text) {
  try {
    sessionStorage.setItem(name, text);
    held.delete(name);
  } catch {
    held.set(name, text);
  }
}
