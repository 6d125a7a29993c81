// One panel in a frame that grows with the window. It reports clicks and arrow keys. A double click (or Enter) enlarges
// it: then the wheel zooms and dragging moves, Escape closes.
//
// A panel with a kind ("overlay", "probability", ...) is drawn here, from the maps that the kernel sends once an answer
// (page_maps.py) and the sliders, so that it follows a slider without the kernel; drawing.py draws the same for files.
// Any other panel is an encoded image.

const LARGEST = 65535; // in a map: the probability 1, and the label of an ignored pixel
const WHITE = 0xffffffff, BLACK = 0xff000000;
const packed = (red, green, blue) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0; // one pixel of a canvas

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
    const pixels = new Uint32Array(photo.length / 3), grey = new Uint8Array(pixels.length);
    for (let i = 0; i < pixels.length; i++) {
      const [red, green, blue] = [photo[3 * i], photo[3 * i + 1], photo[3 * i + 2]];
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
  const tables = styles.map((style) => [
    packed(...style.slice(0, 3)), lined(style, style.slice(0, 3)), WHITE, lined(style, [255, 255, 255]),
  ]);
  for (let i = 0; i < out.length; i++) {
    const place = labels[i] - 1;
    out[i] = place < 0 ? BLACK : tables[place][2 * edge[i] + ((hatches[i] >> styles[place][3]) & 1)];
  }
}

function drawOverlay(out, { photo, labels, styles, hatches, opacity, width }) {
  const edge = outline(labels, width, 2);
  for (let i = 0; i < out.length; i++) {
    const own = photo.pixels[i];
    if (!labels[i]) {
      out[i] = own;
      continue;
    }
    const style = styles[labels[i] - 1], share = edge[i] ? 1 : opacity;
    const half = (hatches[i] >> style[3]) & 1, ink = half && style[4];
    const [red, green, blue] = [own & 255, (own >> 8) & 255, (own >> 16) & 255];
    out[i] = packed(
      (Math.trunc(red + share * (style[0] - red)) >> half) + ink,
      (Math.trunc(green + share * (style[1] - green)) >> half) + ink,
      (Math.trunc(blue + share * (style[2] - blue)) >> half) + ink,
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
    return Uint32Array.from({ length: 256 * 256 }, (_, at) => {
      const mixed = (c) => Math.trunc((3 * (at >> 8) + 7 * heat[3 * (at & 255) + c]) / 10);
      return packed(mixed(0), mixed(1), mixed(2));
    });
  });

function drawHeat(out, { photo, heat, value, threshold, width }) {
  const limit = Math.floor(threshold * LARGEST), inside = new Uint8Array(out.length);
  for (let i = 0; i < out.length; i++) {
    out[i] = heat[(photo.grey[i] << 8) | Math.trunc((value[i] * 255) / LARGEST)];
    inside[i] = value[i] > limit ? 1 : 0;
  }
  contour(out, inside, width);
}

function drawErrors(out, { photo, labels, truth, errors, hatches }) {
  const pale = (grey) => Math.trunc(grey / 3) + 150;
  const colours = [null, ...errors].map((style) =>
    Uint32Array.from({ length: 256 }, (_, grey) => {
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
  const out = new Uint32Array(image.data.buffer), { painted, second } = parts;
  if (kind === "overlay") drawOverlay(out, { ...parts, width });
  if (kind === "beside") drawOverlay(out, { ...parts, labels: second, width });
  if (kind === "argmax") drawLabels(out, { ...parts, width });
  if (kind === "probability") drawHeat(out, { ...parts, width });
  if (kind === "error") drawErrors(out, parts);
  if (kind === "difference") drawErrors(out, { ...parts, truth: second });
  if (kind !== "overlay" || !painted) return image;
  for (const name of new Set(painted)) if (name) contour(out, Uint8Array.from(painted, (at) => +(at === name)), width);
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

function render({ model, el }) {
  const make = (kind, parent, name) => {
    const node = document.createElement(kind);
    node.className = name;
    parent.appendChild(node);
    return node;
  };
  el.classList.add("fusioner-picture");
  const title = make("div", el, "fusioner-title");
  const frame = make("div", el, "fusioner-frame");
  const image = make("canvas", frame, "fusioner-image");
  const ink = make("canvas", frame, "fusioner-ink");
  const caption = make("div", el, "fusioner-caption");
  const pen = image.getContext("2d");
  frame.tabIndex = 0;
  frame.setAttribute("role", "application");
  frame.setAttribute("aria-roledescription", "picture; arrow keys move the inspected pixel, Enter enlarges");
  image.hidden = true; // no empty image while the content is on its way

  const words = () => {
    title.textContent = title.title = model.get("title");
    caption.textContent = caption.title = model.get("caption");
    frame.setAttribute("aria-label", `${model.get("title")}: ${model.get("caption")}`);
    el.classList.toggle("fusioner-absent", !model.get("there"));
    el.classList.toggle("fusioner-told", !model.get("caption")); // nothing to show but a message
  };
  // The old picture stays until the new one is there; of two on their way the later one counts.
  let latest = 0, count = 0;
  const show = (width, height, put) => {
    [image.width, image.height] = [width, height];
    put();
    image.hidden = false;
    image.dataset.drawn = ++count;
    const ratio = width / height;
    el.classList.toggle("fusioner-broad", ratio > 2.2);
    frame.style.aspectRatio = ratio > 2.2 ? ratio : "";
    if (!stroke) ink.width = ink.width; // the new picture shows the stroke itself
    if (large) large.image.src = image.toDataURL();
  };
  let answer = null, sliders = {}, waiting = 0, parts = {};
  const draw = async () => {
    const turn = ++latest, kind = model.get("kind"), content = model.get("content");
    if (kind && answer) {
      const now = { kind, ...needed(kind, answer, sliders) };
      if (Object.keys(now).every((name) => now[name] === parts[name])) return;
      const picture = drawn(kind, now);
      if (!picture) return;
      parts = now;
      show(picture.width, picture.height, () => {
        pen.putImageData(picture, 0, 0);
        if (now.pixel?.length) cross(pen, now.pixel);
      });
    } else if (!kind && content?.byteLength) {
      parts = {};
      const next = await createImageBitmap(new Blob([content], { type: model.get("media") }));
      if (turn === latest) show(next.width, next.height, () => pen.drawImage(next, 0, 0));
    }
  };
  const redraw = () => (waiting ||= requestAnimationFrame(() => ((waiting = 0), draw())));
  const redrawn = () => model.get("kind") && redraw();
  const referred = (reference) => model.widget_manager.get_model(reference.slice("IPY_MODEL_".length));
  const joined = (async () => {
    answer = await referred(model.get("maps"));
    for (const name of ["threshold", "opacity"]) sliders[name] = await referred(answer.get(name));
    answer.on("change", redrawn);
    for (const slider of Object.values(sliders)) slider.on("change:value", redrawn);
    if (!read(answer, "photo", Uint8Array)) model.send({ ask: "maps" });
    draw();
  })();
  const place = (event) => {
    // The picture is fitted into the box of its element; beside it there is an empty margin.
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / image.width, box.height / image.height);
    const [wide, tall] = [image.width * scale, image.height * scale];
    const down = (event.clientY - box.top - (box.height - tall) / 2) / tall;
    const right = (event.clientX - box.left - (box.width - wide) / 2) / wide;
    return [down, right];
  };
  image.addEventListener("click", (event) => {
    if (event.detail > 1 || model.get("tool") !== "look") return;
    answer?.set("pixel", place(event)); // the cross is there at once, what the kernel says of the pixel follows
    model.send({ click: place(event) });
  });

  // Brush, eraser and box: the stroke is drawn here at once, and sent when the button is released.
  let stroke = null, corner = null;
  const trace = (event) => {
    stroke.push(place(event));
    const [box, pen] = [frame.getBoundingClientRect(), ink.getContext("2d")];
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const scale = Math.min(box.width / image.width, box.height / image.height);
    const reach = model.get("radius") * Math.min(image.width, image.height) * scale;
    pen.fillStyle = pen.strokeStyle = model.get("tool") === "erase" ? "#fffc" : "#ff2fa0cc";
    if (model.get("tool") === "box") {
      corner = corner || [x, y];
      pen.clearRect(0, 0, ink.width, ink.height);
      pen.lineWidth = 2;
      pen.strokeRect(corner[0], corner[1], x - corner[0], y - corner[1]);
    } else {
      pen.beginPath();
      pen.arc(x, y, Math.max(1, reach), 0, 7);
      pen.fill();
    }
  };
  frame.addEventListener("pointerdown", (event) => {
    if (model.get("tool") === "look" || event.button || image.hidden) return;
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    [ink.width, ink.height] = [frame.clientWidth, frame.clientHeight];
    stroke = [];
    trace(event);
  });
  frame.addEventListener("pointermove", (event) => stroke && trace(event));
  const release = () => {
    if (!stroke) return;
    model.send({ stroke: stroke });
    stroke = corner = null;
  };
  frame.addEventListener("pointerup", release);
  frame.addEventListener("pointercancel", release);

  // The enlarged picture lies over the page; what is drawn in it is the same picture.
  let large = null;
  const close = () => {
    if (!large) return;
    large.box.remove();
    large = null;
    frame.focus();
  };
  const enlarge = () => {
    if (large || image.hidden) return;
    const box = make("div", document.body, "fusioner-large");
    const big = make("img", box, "");
    const note = make("div", box, "fusioner-large-note");
    let scale = 1, x = 0, y = 0, held = null;
    const move = () => (big.style.transform = `translate(${x}px, ${y}px) scale(${scale})`);
    box.tabIndex = 0;
    box.setAttribute("role", "dialog");
    box.setAttribute("aria-label", frame.getAttribute("aria-label"));
    big.src = image.toDataURL();
    big.alt = frame.getAttribute("aria-label");
    big.draggable = false;
    note.textContent = "wheel: zoom · drag: move · double click or Escape: close";
    box.addEventListener("wheel", (event) => {
      event.preventDefault();
      const factor = event.deltaY < 0 ? 1.25 : 0.8, before = scale;
      scale = Math.min(16, Math.max(1, scale * factor));
      // The point under the pointer stays where it is.
      const rect = big.getBoundingClientRect();
      const [mx, my] = [event.clientX - rect.left - rect.width / 2, event.clientY - rect.top - rect.height / 2];
      x -= mx * (scale / before - 1);
      y -= my * (scale / before - 1);
      if (scale === 1) x = y = 0;
      move();
    }, { passive: false });
    box.addEventListener("pointerdown", (event) => (held = [event.clientX - x, event.clientY - y]));
    box.addEventListener("pointermove", (event) => {
      if (!held) return;
      [x, y] = [event.clientX - held[0], event.clientY - held[1]];
      move();
    });
    box.addEventListener("pointerup", () => (held = null));
    box.addEventListener("dblclick", close);
    box.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Escape") close();
    });
    large = { box, image: big };
    box.focus();
    model.send({ enlarge: true }); // an answer brings the same picture with more pixels
  };
  frame.addEventListener("dblclick", () => model.get("tool") === "look" && enlarge());
  frame.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in moves) && event.key !== "Enter") return;
    // The notebook would take the key as its own and leave the cell.
    event.preventDefault();
    event.stopPropagation();
    event.key === "Enter" ? enlarge() : model.send({ move: moves[event.key] });
  });

  // The sliders of ipywidgets and its upload button have no accessible names of their own.
  const named = () => {
    for (const slider of document.querySelectorAll(".fusioner-inspector .widget-slider")) {
      const label = slider.querySelector(".widget-label"), handle = slider.querySelector("[role=slider]");
      if (label && handle) handle.setAttribute("aria-label", label.textContent);
    }
    for (const upload of document.querySelectorAll(".fusioner-inspector .widget-upload, .fusioner-inspector .jupyter-widget-upload")) {
      upload.setAttribute("aria-label", "Upload a photo");
    }
  };
  // The still picture that is saved below the widget is hidden while there is the widget.
  const covered = () => el.closest(".jp-OutputArea")?.classList.add("fusioner-live");
  // The element joins the page after this function has returned.
  for (const wait of [0, 300, 2000]) setTimeout(() => (named(), covered()), wait);

  // A stopped kernel: the last pictures and the parameter line stay, below a notice. ipywidgets tells its widgets of a
  // restart alone; that a kernel died, was killed or shut down is known to JupyterLab's session.
  const stopped = () => {
    const box = el.closest(".fusioner-inspector");
    if (!box || box.querySelector(".fusioner-stopped")) return;
    const note = make("div", box, "fusioner-stopped");
    note.setAttribute("role", "alert");
    note.textContent = "The kernel of this inspector has stopped, so it does not answer any more: run the cell again.";
    box.prepend(note);
  };
  const session = model.widget_manager?.context?.sessionContext;
  const own = session?.session?.kernel?.id;
  const onStatus = (_, status) => ["dead", "restarting", "autorestarting", "terminating"].includes(status) && stopped();
  const onKernel = (_, { newValue }) => own && newValue?.id !== own && stopped();
  session?.statusChanged.connect(onStatus);
  session?.kernelChanged.connect(onKernel);
  model.on("comm_live_update", () => el.classList.contains("jupyter-widgets-disconnected") && stopped());
  model.on("msg:custom", (message, buffers) => {
    if (!large || !message || !message.large || !buffers.length) return;
    large.image.src = URL.createObjectURL(new Blob([buffers[0]], { type: message.large }));
  });
  model.on("change:content change:kind", draw);
  model.on("change:title change:caption change:there", words);
  words();
  draw();
  model.send({ ask: true }); // content that was lost on its way comes again
  return () => {
    close();
    joined.then(() => {
      answer.off("change", redrawn);
      for (const slider of Object.values(sliders)) slider.off("change:value", redrawn);
    });
    session?.statusChanged.disconnect(onStatus);
    session?.kernelChanged.disconnect(onKernel);
  };
}
export default { render };
