// Reads recordings: NumPy archives and arrays, JSON, JSON lines, CSV.
// A frame is {points, features?, labels?, time_s}: points [[x, y, z, doppler, intensity], …],
// features (8, 8, 5) where the file holds maps, labels [[x, y, z] × 19] where it has them.

const LARGEST_BYTES = 64 * 1024 * 1024;
const FRAME_S = 0.1;
const READERS = { npz: readNpz, npy: readNpy, json: readJson, jsonl: readLines, csv: readCsv };

// The frames of a file or response body; throws an Error whose message says what must hold.
export async function readFrames(name, blob) {
  const suffix = name.split(".").pop().toLowerCase();
  if (!(suffix in READERS)) throw new Error(`${name} must be one of .${Object.keys(READERS).join(", .")}`);
  if (blob.size > LARGEST_BYTES) throw new Error(`${name} must be at most 64 MiB, but is ${blob.size} bytes`);
  let frames;
  try {
    frames = await READERS[suffix](await blob.arrayBuffer());
  } catch (error) {
    throw new Error(`${name} cannot be read: ${error.message}`);
  }
  frames = frames.filter((frame) => frame.points.length);
  if (!frames.length) throw new Error(`${name} must hold at least one frame with points, but holds none`);
  return frames;
}

async function readNpz(buffer) {
  return framesOf(await unzip(buffer));
}

function readNpy(buffer) {
  const array = npy(new Uint8Array(buffer));
  return framesOf({ [array.shape.length === 2 ? "points" : "features"]: array });
}

// Frames of arrays by name: points and counts, or features, with labels, frame and time_s.
function framesOf(arrays) {
  const frames = arrays.features ? fromFeatures(arrays.features) : fromPoints(arrays);
  const [labels, numbers, times] = ["labels", "frame", "time_s"].map((name) => arrays[name]?.values);
  const first = Number(numbers?.[0]);
  frames.forEach((frame, i) => {
    if (labels) frame.labels = joints(labels.subarray(57 * i, 57 * i + 57));
    frame.time_s = times ? times[i] : numbers ? (Number(numbers[i]) - first) * FRAME_S : i * FRAME_S;
  });
  return frames;
}

function fromPoints({ points, counts }) {
  if (points?.shape.length !== 2 || points.shape[1] !== 5) {
    throw new Error("it must hold points [n, 5] with counts, or features [n, 8, 8, 5]");
  }
  let at = 0;
  return Array.from(counts?.values ?? [points.shape[0]], (count) => {
    const frame = { points: rows(points.values.subarray(5 * at, 5 * (at + Number(count))), 5) };
    at += Number(count);
    return frame;
  });
}

function fromFeatures({ shape, values }) {
  if (shape.slice(-3).join() !== "8,8,5") throw new Error(`features must be [n, 8, 8, 5], but are [${shape}]`);
  return rows(values, 320).map((map) => {
    const cells = rows(map, 5);
    return { points: cells.filter((cell) => cell.some((value) => value)), features: rows(cells, 8) };
  });
}

function readJson(buffer) {
  const document = JSON.parse(text(buffer));
  return timed((document.frames ?? [document]).map(frameOf));
}

function readLines(buffer) {
  return timed(text(buffer).split("\n").filter((line) => line.trim()).map((line) => frameOf(JSON.parse(line))));
}

function readCsv(buffer) {
  const lines = text(buffer).split("\n").filter((line) => line.trim());
  if (/[a-z]{2}|^x/i.test(lines[0])) lines.shift();
  return timed([{ points: lines.map((line) => line.split(",").map(Number)) }]);
}

function frameOf(entry) {
  if (Array.isArray(entry)) return { points: entry };
  if (entry.features) return { ...fromFeatures({ shape: [8, 8, 5], values: entry.features.flat(2) })[0], ...entry };
  if (!Array.isArray(entry.points)) throw new Error("each frame must have points or features");
  return entry;
}

const timed = (frames) => frames.map((frame, i) => ({ ...frame, time_s: frame.time_s ?? i * FRAME_S }));
const text = (buffer) => new TextDecoder().decode(buffer);
const rows = (values, width) =>
  Array.from({ length: values.length / width }, (_, i) => Array.from(values.slice(width * i, width * (i + 1))));
const joints = (flat) => Array.from({ length: 19 }, (_, j) => [flat[j], flat[19 + j], flat[38 + j]]);

const TYPES = {
  "<f4": Float32Array, "<f8": Float64Array, "|u1": Uint8Array, "|i1": Int8Array, "<u2": Uint16Array,
  "<i2": Int16Array, "<u4": Uint32Array, "<i4": Int32Array, "<u8": BigUint64Array, "<i8": BigInt64Array,
};

// NumPy's format: magic, version, length, a Python literal, the numbers.
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
function npy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0) !== 0x934e554d) throw new Error("it is no NumPy array");
  const start = bytes[6] === 1 ? 10 : 12;
  const end = start + (bytes[6] === 1 ? view.getUint16(8, true) : view.getUint32(8, true));
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, end));
  const Type = TYPES[/'descr': *'([^']+)'/.exec(header)?.[1]];
  const shape = /'shape': *\(([^)]*)\)/.exec(header)[1].split(",").filter((n) => n.trim()).map(Number);
  if (!Type || (shape.length > 1 && /'fortran_order': *True/.test(header))) {
    throw new Error("arrays must hold numbers, little-endian and in C order");
  }
  return { shape, values: new Type(bytes.slice(end).buffer, 0, shape.reduce((a, b) => a * b, 1)) };
}

// The arrays of an archive, by name: ZIP with entries stored or deflated.
async function unzip(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("it is no whole .npz archive");
  const arrays = {};
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left; left--) {
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const [size, whole, local] = [20, 24, 42].map((offset) => view.getUint32(at + offset, true));
    if (whole > LARGEST_BYTES) throw new Error("an array must be at most 64 MiB");
    const key = text(buffer.slice(at + 46, at + 46 + name)).replace(/\.npy$/, "");
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const packed = buffer.slice(start, start + size);
    if (["points", "counts", "features", "labels", "frame", "time_s"].includes(key)) {
      arrays[key] = npy(new Uint8Array(view.getUint16(at + 10, true) ? await inflate(packed) : packed));
    }
    at += 46 + name + extra + comment;
  }
  return arrays;
}

const inflate = (packed) =>
  new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"))).arrayBuffer();
