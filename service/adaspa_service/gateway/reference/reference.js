// The reference of /openapi.json. What one tries out goes with the key of this tab, if the page has one.
const chosen = document.documentElement.dataset.theme;
if (chosen === "dark" || (!chosen && matchMedia("(prefers-color-scheme: dark)").matches)) document.documentElement.classList.add("dark-mode");
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  requestInterceptor: (request) => {
    const key = sessionStorage.getItem("key");
    if (key && !request.headers.Authorization) request.headers.Authorization = `Bearer ${key}`;
    return request;
  },
});
