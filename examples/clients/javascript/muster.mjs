// Client in JavaScript without dependencies, for Node 18 or newer and browsers. It contributes a
// device's numbers to a federated histogram. It implements this computation and rejects other plans.
//
//   node muster.mjs http://127.0.0.1:8080 devices my-name 12 57.5 99

const BINS = 10;
const WIDTH = 10; // of a bin; the first starts at 0
const MAX_PLAN = 1 << 20; // bytes
const MAX_ATTEMPTS = 5; // of one request
const MAX_CHECKINS = 100;

/** Error with the coordinator's problem document. `type` is the last segment of the document's `type`. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? `HTTP ${status}`);
    this.type = (document.type ?? "").split("/").pop();
    this.status = status;
    this.retryAfter = document.retry_after;
  }
}

/** Returns one device's counts. Numbers outside 0 to 100 count in the outer bins. */
export function histogram(numbers) {
  const counts = new Array(BINS).fill(0);
  for (const number of numbers) {
    if (!Number.isFinite(number)) throw new TypeError(`not a number: ${number}`);
    counts[Math.min(BINS - 1, Math.max(0, Math.floor(Math.fround(number) / WIDTH)))] += 1;
  }
  return counts;
}

/**
 * Returns a safetensors file with one int64 tensor: 8 bytes with the header's length, the header, the
 * values, all little-endian.
 */
export function safetensors(name, values) {
  const size = 8 * values.length;
  const header = new TextEncoder().encode(
    JSON.stringify({ [name]: { dtype: "I64", shape: [values.length], data_offsets: [0, size] } }),
  );
  const view = new DataView(new ArrayBuffer(8 + header.length + size));
  view.setBigUint64(0, BigInt(header.length), true);
  new Uint8Array(view.buffer).set(header, 8);
  values.forEach((value, index) => view.setBigInt64(8 + header.length + 8 * index, BigInt(value), true));
  return new Uint8Array(view.buffer);
}

/** Returns the members of an uncompressed zip by name. Supports only the features that plans use. */
export function unzip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextDecoder("utf-8", { fatal: true });
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) throw new Error("The plan is not a zip");
  const members = new Map();
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    if (view.getUint32(at, true) !== 0x02014b50 || view.getUint16(at + 10, true) !== 0) {
      throw new Error("The plan's zip is compressed: its members must be stored");
    }
    const [size, nameSize] = [view.getUint32(at + 20, true), view.getUint16(at + 28, true)];
    const name = text.decode(bytes.subarray(at + 46, at + 46 + nameSize));
    const local = view.getUint32(at + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    if (start + size > bytes.length || members.has(name)) throw new Error("The plan's zip is damaged");
    members.set(name, bytes.subarray(start, start + size));
    at += 46 + nameSize + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return members;
}

/** Returns the SHA-256 of bytes, in hex. Browsers support it only on https and localhost. */
export async function sha256(bytes) {
  const digest = new Uint8Array(await globalThis.crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Throws unless the plan has the assigned hash and its update is that of `histogram`. Does not run its graph. */
export async function checkPlan(bytes, address) {
  const raw = unzip(bytes).get("manifest.json");
  if (raw === undefined || (await sha256(raw)) !== address) throw new Error("The plan is not the one that was assigned");
  const manifest = JSON.parse(new TextDecoder().decode(raw));
  const [tensor, ...others] = manifest.update;
  const fits =
    manifest.name === "histogram" &&
    manifest.broadcast.length === 0 &&
    others.length === 0 &&
    tensor?.path === "0/counts" &&
    tensor.dtype === "int64" &&
    String(tensor.shape) === String([BINS]);
  if (!fits) throw new Error(`The plan ${manifest.name} wants something else than a histogram`);
  return tensor.path;
}

function wait(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, 1000 * seconds);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Sends a request, with retries: every request of the protocol is idempotent. Returns a 2xx Response. */
async function request(url, options, signal) {
  for (let attempt = 1; ; attempt += 1) {
    let pause = Math.min(5, 0.1 * 2 ** attempt) * (0.5 + Math.random());
    try {
      const response = await fetch(url, { ...options, signal, redirect: "error", credentials: "omit" });
      if (response.ok) return response;
      const problem = new Problem(response.status, await response.json().catch(() => ({})));
      if (![429, 502, 503, 504].includes(problem.status) && problem.type !== "update_truncated") throw problem;
      if (attempt === MAX_ATTEMPTS) throw problem;
      pause = problem.retryAfter ?? pause;
    } catch (error) {
      // fetch throws a TypeError if there is no answer.
      if (!(error instanceof TypeError) || attempt === MAX_ATTEMPTS) throw error;
    }
    await wait(pause, signal);
  }
}

function post(url, message, token, signal) {
  const headers = { "Content-Type": "application/json" };
  if (token !== undefined) headers.Authorization = `Bearer ${token}`;
  return request(url, { method: "POST", headers, body: JSON.stringify(message) }, signal);
}

/**
 * Contributes once: checks in until there is work, and uploads the update. Returns the receipt.
 *
 * @param {object} options
 * @param {string} options.url the coordinator's address
 * @param {string} options.population the population to check in to
 * @param {number[] | function} options.numbers the device's data, or a function that returns it for
 *   an assignment's `{ kind, selector }`
 * @param {string} [options.client] the client's id, if identity is self-asserted
 * @param {string} [options.token] the client's bearer token, if the coordinator authenticates clients
 * @param {AbortSignal} [options.signal] ends the call when aborted
 */
export async function contribute({ url, population, numbers, client, token, signal }) {
  const fixed = typeof numbers === "function" ? undefined : histogram(numbers);
  let cookie;
  for (let attempt = 0; attempt < MAX_CHECKINS; attempt += 1) {
    const checkin = `${url}/v1/populations/${encodeURIComponent(population)}:checkin`;
    const { answer } = await (await post(checkin, { client, cookie }, token, signal)).json();
    cookie = answer.cookie ?? cookie;
    if (answer.status !== "assigned") {
      await wait(answer.retry_after, signal);
      continue;
    }
    let name;
    try {
      if (answer.plan.size > MAX_PLAN) throw new Error("The plan is too large");
      const file = await request(url + answer.plan.url, {}, signal);
      name = await checkPlan(new Uint8Array(await file.arrayBuffer()), answer.plan.sha256);
    } catch (error) {
      if (error instanceof Problem || signal?.aborted) throw error;
      const report = { outcome: "failed", reason: "plan_refused", detail: String(error.message).slice(0, 1000) };
      await post(`${url}/v1/updates:report`, report, answer.token, signal);
      throw error;
    }
    try {
      const headers = { Authorization: `Bearer ${answer.token}`, "Content-Type": "application/octet-stream" };
      const counts = fixed ?? histogram(numbers({ kind: answer.kind, selector: answer.selector }));
      const body = safetensors(name, counts);
      return await (await request(`${url}/v1/updates`, { method: "PUT", headers, body }, signal)).json();
    } catch (error) {
      // The assignment has expired or its round is closed: check in again.
      if (!(error instanceof Problem) || ![401, 404, 409].includes(error.status)) throw error;
    }
  }
  throw new Error(`There was no work in ${MAX_CHECKINS} check-ins`);
}

if (typeof process !== "undefined" && process.argv?.[1]) {
  const { pathToFileURL } = await import("node:url");
  if (import.meta.url === pathToFileURL(process.argv[1]).href) {
    const [url, population, client, ...numbers] = process.argv.slice(2);
    if (numbers.length === 0) {
      console.error("usage: node muster.mjs URL POPULATION CLIENT NUMBER…");
      process.exit(2);
    }
    try {
      const token = process.env.MUSTER_CLIENT_TOKEN;
      const receipt = await contribute({ url, population, client, token, numbers: numbers.map(Number) });
      console.log(JSON.stringify(receipt));
    } catch (error) {
      console.error(`Error: ${error.message}`);
      process.exit(1);
    }
  }
}
