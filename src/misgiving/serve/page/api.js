// Requests to the service.

import { at } from "./dom.js";

// What blind cases tell depends on who asks.
export function asReader(path) {
  const name = at("reviewer").value.trim();
  return name ? `${path}${path.includes("?") ? "&" : "?"}reader=${encodeURIComponent(name)}` : path;
}

export async function ask(path, options) {
  const response = await fetch(options ? path : asReader(path), options).catch(() => null);
  if (!response) throw new Error("The service does not respond. Is it running?");
  const content = await response.json().catch(() => ({}));
  if (response.ok) return content;
  if (response.status === 401) location.assign("sign-in"); // the session was idle for too long
  const error = new Error(content.detail ?? `The service responded with status ${response.status}.`);
  Object.assign(error, { status: response.status, content, wait: response.headers.get("Retry-After") });
  throw error;
}

export const waitFor = (milliseconds) =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));
