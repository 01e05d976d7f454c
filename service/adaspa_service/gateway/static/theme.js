// Before the first paint: the colours that were chosen here earlier.
try {
  document.documentElement.dataset.theme = localStorage.getItem("theme") || "";
} catch { /* a browser that stores nothing gets the system's colours */ }
