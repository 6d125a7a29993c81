// How the page draws panels by itself, from the maps that the kernel sends once an answer (page_maps.py) and from the
// sliders, which it follows without the kernel. drawing.py draws the same for files. controls.py puts this text before
// that of picture.js: a widget is one module.

const LARGEST = 65535; // in a map: the probability 1, and the label of an ignored pixel
// One pixel of a canvas, as a signed number: the engine keeps large unsigned ones as slower floating point.
const packed = (red, green, blue) => (255 << 24) | (blue << 16) | (green << 8) | red;
const WHITE = packed(255, 255, 255), BLACK = packed(0, 0, 0);

// What `make` gives of traits of the answer; made again when one of them has changed, once for all panels.
function derived(answer, key, traits, make) {
  const known = (answer.fusionerMaps ??= new Map()), values = traits.map((name) => answer.get(name));
  const last = known.get(key);
  if (last?.values.every((value, i) => value === values[i])) return last.made;
  const made = make(...values);
  known.set(key, { values, made });
  return made;
}

// A map of the answer as numbers, null where there is none.
const read = (answer, name, Numbers = Uint16Array) =>
  derived(answer, name, [name], (bytes) =>
    bytes?.byteLength ? new Numbers(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)) : null);

// The photo as pixels of a canvas, and its grey levels.
const photoOf = (answer) =>
  derived(answer, "pixels", ["photo"], () => {
    const photo = read(answer, "photo", Uint8Array);
    if (!photo) return null;
    const pixels = new Int32Array(photo.length / 3), grey = new Uint8Array(pixels.length);
    for (let i = 0; i < pixels.length; i++) {
      const red = photo[3 * i], green = photo[3 * i + 1], blue = photo[3 * i + 2];
      pixels[i] = packed(red, green, blue);
      grey[i] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
    }
    return { pixels, grey };
  });

// The predicted labels at a threshold: 0 background, k + 1 name k.
function predicted(answer, threshold) {
  const [best, winner] = [read(answer, "best"), read(answer, "winner")];
  const last = derived(answer, "labels", ["best", "winner", "size"], () => ({}));
  if (last.threshold === threshold) return last.labels;
  const [height, width] = answer.get("size"), limit = Math.floor(threshold * LARGEST);
  const labels = new Uint16Array(height * width);
  if (best) for (let i = 0; i < labels.length; i++) labels[i] = best[i] > limit ? winner[i] : 0;
  Object.assign(last, { threshold, labels });
  return labels;
}

// 1 within `thickness` pixels of another label, on either side.
function outline(labels, width, thickness) {
  const edge = new Uint8Array(labels.length);
  for (let step = 1; step <= thickness; step++) {
    const down = step * width;
    for (let i = down; i < labels.length; i++) if (labels[i] !== labels[i - down]) edge[i] = edge[i - down] = 1;
    for (let row = 0; row < labels.length; row += width) {
      for (let i = row + step; i < row + width; i++) if (labels[i] !== labels[i - step]) edge[i] = edge[i - step] = 1;
    }
  }
  return edge;
}

function drawLabels(out, { labels, styles, hatches, width }) {
  const edge = outline(labels, width, 1);
  const lined = (style, colour) => packed(...colour.map((value) => (value >> 1) + style[4]));
  const hatch = Uint8Array.from(styles, (style) => style[3]);
  // By name, whether it is on an edge, and whether it is in a line of the hatch.
  const colours = Int32Array.from(
    styles.flatMap((style) => [
      packed(...style.slice(0, 3)), lined(style, style.slice(0, 3)), WHITE, lined(style, [255, 255, 255]),
    ]),
  );
  for (let i = 0; i < out.length; i++) {
    const place = labels[i] - 1;
    out[i] = place < 0 ? BLACK : colours[4 * place + 2 * edge[i] + ((hatches[i] >> hatch[place]) & 1)];
  }
}

function drawOverlay(out, { photo, labels, styles, hatches, opacity, width }) {
  const edge = outline(labels, width, 2), { pixels } = photo;
  const [hatch, inks] = [3, 4].map((part) => Uint8Array.from(styles, (style) => style[part]));
  // By name, whether it is on an edge, colour channel, and the photo's value.
  const mixed = new Uint8Array(styles.length * 2 * 3 * 256);
  for (let at = 0; at < mixed.length; at++) {
    const own = at & 255, colour = styles[Math.trunc(at / 1536)][(at >> 8) % 3];
    mixed[at] = own + (Math.trunc(at / 768) & 1 ? 1 : opacity) * (colour - own);
  }
  for (let i = 0; i < out.length; i++) {
    const own = pixels[i], place = labels[i] - 1;
    if (place < 0) {
      out[i] = own;
      continue;
    }
    const half = (hatches[i] >> hatch[place]) & 1, ink = half * inks[place], at = 1536 * place + 768 * edge[i];
    out[i] = packed(
      (mixed[at + (own & 255)] >> half) + ink,
      (mixed[at + 256 + ((own >> 8) & 255)] >> half) + ink,
      (mixed[at + 512 + ((own >> 16) & 255)] >> half) + ink,
    );
  }
}

// A black and white line around the pixels where `inside` is 1.
function contour(out, inside, width) {
  const edge = outline(inside, width, 1);
  for (let i = 0; i < out.length; i++) if (edge[i]) out[i] = inside[i] ? WHITE : BLACK;
}

// By grey and level: three parts of the grey and seven of the level's colour.
const heatOf = (answer) =>
  derived(answer, "table", ["heat"], () => {
    const heat = read(answer, "heat", Uint8Array);
    return Int32Array.from({ length: 256 * 256 }, (_, at) => {
      const mixed = (c) => Math.trunc((3 * (at >> 8) + 7 * heat[3 * (at & 255) + c]) / 10);
      return packed(mixed(0), mixed(1), mixed(2));
    });
  });

function drawHeat(out, { photo, heat, value, threshold, width }) {
  const limit = Math.floor(threshold * LARGEST), inside = new Uint8Array(out.length), { grey } = photo;
  for (let i = 0; i < out.length; i++) {
    out[i] = heat[(grey[i] << 8) | (value[i] / 257)]; // 65535 / 257 = 255
    inside[i] = value[i] > limit ? 1 : 0;
  }
  contour(out, inside, width);
}

function drawErrors(out, { photo, labels, truth, errors, hatches }) {
  const pale = (grey) => Math.trunc(grey / 3) + 150;
  const colours = [null, ...errors].map((style) =>
    Int32Array.from({ length: 256 }, (_, grey) => {
      const mixed = [0, 1, 2].map((c) => (style ? Math.trunc(pale(grey) * 0.25 + style[c] * 0.75) : pale(grey)));
      return packed(...mixed);
    }));
  for (let i = 0; i < out.length; i++) {
    const kind = labels[i] === truth[i] ? 0 : !labels[i] ? 1 : !truth[i] ? 2 : 3; // missed, extra, wrong
    const lined = kind && (hatches[i] >> errors[kind - 1][3]) & 1;
    out[i] = lined || truth[i] === LARGEST ? WHITE : colours[kind][photo.grey[i]];
  }
}

// What a panel is drawn from; it is drawn again when a part of it has changed.
const PARTS = {
  overlay: ["photo", "labels", "styles", "hatches", "opacity", "painted", "pixel"],
  probability: ["photo", "heat", "value", "threshold"],
  argmax: ["labels", "styles", "hatches"],
  error: ["photo", "labels", "truth", "errors", "hatches"],
  beside: ["photo", "second", "styles", "hatches", "opacity"],
  difference: ["photo", "labels", "second", "errors", "hatches"],
};
const PART = {
  photo: photoOf,
  heat: heatOf,
  hatches: (answer) => read(answer, "hatches", Uint8Array),
  labels: (answer, sliders) => predicted(answer, sliders.threshold.get("value")),
  threshold: (_, sliders) => sliders.threshold.get("value"),
  opacity: (_, sliders) => sliders.opacity.get("value"),
};
for (const name of ["value", "truth", "second", "painted"]) PART[name] = (answer) => read(answer, name);
for (const name of ["styles", "errors", "pixel", "size"]) PART[name] = (answer) => answer.get(name);
const needed = (kind, answer, sliders) =>
  Object.fromEntries(["size", ...PARTS[kind]].map((name) => [name, PART[name](answer, sliders)]));

// The panel `kind` as ImageData; null while the kernel has not sent all that it needs.
function drawn(kind, parts) {
  if (PARTS[kind].some((name) => name !== "painted" && parts[name] == null)) return null;
  const [height, width] = parts.size, image = new ImageData(width, height);
  const out = new Int32Array(image.data.buffer), { painted, second } = parts;
  if (kind === "overlay") drawOverlay(out, { ...parts, width });
  if (kind === "beside") drawOverlay(out, { ...parts, labels: second, width });
  if (kind === "argmax") drawLabels(out, { ...parts, width });
  if (kind === "probability") drawHeat(out, { ...parts, width });
  if (kind === "error") drawErrors(out, parts);
  if (kind === "difference") drawErrors(out, { ...parts, truth: second });
  if (kind !== "overlay" || !painted) return image;
  for (const name of new Set(painted)) if (name) contour(out, painted.map((at) => +(at === name)), width);
  return image;
}

// A ring and a cross at the clicked pixel.
function cross(pen, [down, right]) {
  const [x, y] = [right * pen.canvas.width, down * pen.canvas.height];
  for (const [colour, wide] of [["white", 5], ["black", 2]]) {
    [pen.strokeStyle, pen.lineWidth] = [colour, wide];
    pen.beginPath();
    pen.arc(x, y, 8, 0, 7);
    for (const side of [-1, 1]) {
      pen.moveTo(x + 5 * side, y);
      pen.lineTo(x + 15 * side, y);
      pen.moveTo(x, y + 5 * side);
      pen.lineTo(x, y + 15 * side);
    }
    pen.stroke();
  }
}
