// One panel in a frame that grows with the window. It reports clicks and arrow keys. A double click (or Enter) enlarges
// it: then the wheel zooms and dragging moves, Escape closes.
//
// A panel with a kind ("overlay", "probability", ...) is drawn here, from the maps that the kernel sends once an answer
// (page_maps.py) and the sliders, so that it follows a slider without the kernel; drawing.py draws the same for files.
// Any other panel is an encoded image.

const LARGEST = 65535; // in a map: the probability 1, and the label of an ignored pixel

// A map of the answer as numbers, null where there is none; read once for all panels.
function read(answer, name, Numbers = Uint16Array) {
  const known = (answer.fusionerMaps ??= {}), bytes = answer.get(name);
  if (known[name]?.bytes !== bytes) {
    const filled = bytes?.byteLength > 0;
    const copy = filled && bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    known[name] = { bytes, numbers: filled ? new Numbers(copy) : null };
  }
  return known[name].numbers;
}

// The predicted labels at a threshold: 0 background, k + 1 name k.
function predicted(answer, threshold) {
  const [best, winner] = [read(answer, "best"), read(answer, "winner")];
  const known = answer.fusionerMaps.labels;
  if (known?.best === best && known.winner === winner && known.threshold === threshold) return known.labels;
  const [height, width] = answer.get("size"), limit = Math.floor(threshold * LARGEST);
  const labels = new Uint16Array(height * width);
  if (best) for (let i = 0; i < labels.length; i++) labels[i] = best[i] > limit ? winner[i] : 0;
  answer.fusionerMaps.labels = { best, winner, threshold, labels };
  return labels;
}

// 1 within `thickness` pixels of another label, on either side.
function outline(labels, width, thickness) {
  const edge = new Uint8Array(labels.length);
  for (let step = 1; step <= thickness; step++) {
    for (let i = 0; i < labels.length; i++) {
      const above = i - step * width;
      if (above >= 0 && labels[i] !== labels[above]) edge[i] = edge[above] = 1;
      if (i % width >= step && labels[i] !== labels[i - step]) edge[i] = edge[i - step] = 1;
    }
  }
  return edge;
}

// Colours and hatches of labels; `mixed` gives a channel of pixel i from the colour's value there.
function drawLabels(pixels, labels, { styles, hatches }, edge, mixed) {
  for (let i = 0; i < labels.length; i++) {
    const style = labels[i] && styles[labels[i] - 1];
    for (let c = 0; c < 3; c++) {
      let value = mixed(i, c, style ? style[c] : null, edge[i]);
      if (style && (hatches[i] >> style[3]) & 1) value = (value >> 1) + style[4];
      pixels[4 * i + c] = value;
    }
  }
}

// A black and white line around the pixels where `inside` is 1.
function contour(pixels, inside, width) {
  const edge = outline(inside, width, 1);
  for (let i = 0; i < edge.length; i++) if (edge[i]) pixels.fill(inside[i] ? 255 : 0, 4 * i, 4 * i + 3);
}

const grey = (photo, i) => (photo[3 * i] * 19595 + photo[3 * i + 1] * 38470 + photo[3 * i + 2] * 7471 + 32768) >> 16;

function drawOverlay(pixels, labels, shown, opacity) {
  const { photo, width } = shown;
  drawLabels(pixels, labels, shown, outline(labels, width, 2), (i, c, colour, edge) => {
    const own = photo[3 * i + c];
    return colour === null ? own : edge ? colour : Math.trunc(own + opacity * (colour - own));
  });
}

function drawErrors(pixels, labels, truth, { photo, errors, hatches }) {
  for (let i = 0; i < labels.length; i++) {
    const kind = labels[i] === truth[i] ? 0 : !labels[i] ? 1 : !truth[i] ? 2 : 3; // missed, extra, wrong
    const pale = Math.trunc(grey(photo, i) / 3) + 150, style = kind && errors[kind - 1];
    for (let c = 0; c < 3; c++) {
      let value = style ? Math.trunc(pale * 0.25 + style[c] * 0.75) : pale;
      if (truth[i] === LARGEST || (style && (hatches[i] >> style[3]) & 1)) value = 255;
      pixels[4 * i + c] = value;
    }
  }
}

// The panel `kind` as ImageData; null while the kernel has sent no maps.
function drawn(kind, answer, threshold, opacity) {
  const [height, width] = answer.get("size"), photo = read(answer, "photo", Uint8Array);
  if (!photo) return null;
  const hatches = read(answer, "hatches", Uint8Array), labels = predicted(answer, threshold);
  const shown = { photo, hatches, width, styles: answer.get("styles"), errors: answer.get("errors") };
  const image = new ImageData(width, height), pixels = image.data.fill(255);
  const value = read(answer, "value"), other = read(answer, kind === "error" ? "truth" : "second");
  if (kind === "overlay") {
    drawOverlay(pixels, labels, shown, opacity);
    const painted = read(answer, "painted");
    for (const name of new Set(painted ?? [])) if (name) contour(pixels, painted.map((at) => +(at === name)), width);
  } else if (kind === "beside" && other) {
    drawOverlay(pixels, other, shown, opacity);
  } else if (kind === "argmax") {
    drawLabels(pixels, labels, shown, outline(labels, width, 1), (i, c, colour, edge) =>
      colour === null ? 0 : edge ? 255 : colour);
  } else if (kind === "probability" && value) {
    const heat = read(answer, "heat", Uint8Array), limit = Math.floor(threshold * LARGEST);
    for (let i = 0; i < value.length; i++) {
      const level = Math.trunc((value[i] * 255) / LARGEST), three = 3 * grey(photo, i);
      for (let c = 0; c < 3; c++) pixels[4 * i + c] = Math.trunc((three + 7 * heat[3 * level + c]) / 10);
    }
    contour(pixels, value.map((at) => +(at > limit)), width);
  } else if (other) {
    drawErrors(pixels, labels, other, shown);
  } else {
    return null;
  }
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
  let answer = null, sliders = {}, waiting = 0;
  const draw = async () => {
    const turn = ++latest, kind = model.get("kind"), content = model.get("content");
    if (kind) {
      const found = answer && drawn(kind, answer, sliders.threshold.get("value"), sliders.opacity.get("value"));
      const pixel = (found && kind === "overlay" && answer.get("pixel")) || [];
      if (found) show(found.width, found.height, () => (pen.putImageData(found, 0, 0), pixel.length && cross(pen, pixel)));
    } else if (content?.byteLength) {
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
  model.on("change:content change:kind", redraw);
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
