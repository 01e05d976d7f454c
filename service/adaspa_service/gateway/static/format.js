// Numbers as people read them.
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

export function seconds(value) {
  if (value < 10) return `${value.toFixed(value < 1 ? 2 : 1)} s`;
  const whole = Math.round(value);
  if (whole < 90) return `${whole} s`;
  if (whole < 5400) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

// A number without needless decimals: 4, 4.1.
export const short = (value) => String(Number(value.toFixed(1)));

// A time that is expected, as people say it: nobody waits for tenths.
export const about = (value) => (value < 1 ? "1 s" : seconds(value < 10 ? Math.round(value) : value).replace(".0 s", " s"));

export function bytes(value) {
  const power = Math.min(3, Math.floor(Math.log2(Math.max(value, 1)) / 10));
  return `${(value / 1024 ** power).toFixed(power ? 1 : 0)} ${["B", "KiB", "MiB", "GiB"][power]}`;
}

// A moment as one says it: the day, unless it is today, and the time.
export function when(stamp) {
  const date = new Date(1000 * stamp);
  const time = date.toLocaleTimeString([], { hour: "numeric", minute: "2-digit" });
  if (date.toDateString() === new Date().toDateString()) return `today, ${time}`;
  return `${date.toLocaleDateString([], { day: "numeric", month: "short", ...(date.getFullYear() !== new Date().getFullYear() && { year: "numeric" }) })}, ${time}`;
}

// A value as one types it: adapters as their names and scales.
export function typed(value) {
  if (Array.isArray(value)) return value.map(({ name, scale }) => `${name}:${scale}`).join(", ");
  if (value === null || typeof value !== "object") return value;
  return Object.keys(value).length ? JSON.stringify(value) : "";
}
// As the service counts them: an emoji is one.
export const characters = (text) => [...text].length;
export const words = (name) => name.replaceAll("_", " ");
export const capital = (text) => text[0].toUpperCase() + text.slice(1);
