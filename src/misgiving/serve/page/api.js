// Requests to the service.

export async function ask(path, options) {
  const response = await fetch(path, options).catch(() => null);
  if (!response) throw new Error("The service does not respond. Is it running?");
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  const error = new Error(content.detail ?? `The service responded with status ${response.status}.`);
  Object.assign(error, { status: response.status, content, wait: response.headers.get("Retry-After") });
  throw error;
}

export const waitFor = (milliseconds) =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));
