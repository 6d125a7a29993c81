// One panel in a frame that grows with the window. It reports clicks and arrow keys. A double click (or Enter) enlarges
// it: then the wheel zooms and dragging moves, Escape closes. A panel with a kind ("overlay", "probability", ...) is drawn
// by drawing.js, any other is an encoded image.

const PANORAMA = 2; // as in inference/whole.py
const PAUSE = 150; // milliseconds without a key, after which the kernel is told what is being typed

// What the controls around the pictures need, once an inspector. answer: gives the model of page_maps.py.
function attend(box, model, answer) {
  if (!box) return;
  // The sliders of ipywidgets and its upload button have no accessible names of their own.
  for (const slider of box.querySelectorAll(".widget-slider")) {
    const label = slider.querySelector(".widget-label"), handle = slider.querySelector("[role=slider]");
    if (label && handle) handle.setAttribute("aria-label", label.textContent);
  }
  for (const upload of box.querySelectorAll(".widget-upload, .jupyter-widget-upload")) {
    upload.setAttribute("aria-label", "Upload a photo");
  }
  if (box.fusionerAttended) return;
  box.fusionerAttended = true;
  // For Enter in a text field ipywidgets sends the kernel a message of its own before the new text, which then waits.
  box.addEventListener("keypress", (event) => event.key === "Enter" && event.stopPropagation(), { capture: true });
  // The kernel sends the answer while a name is typed, and Enter draws it at once; the kernel's own follows.
  let pause = 0;
  const typing = (event) => {
    clearTimeout(pause);
    if (!event.target.closest(".fusioner-names")) return;
    pause = setTimeout(() => model.send({ typing: event.target.value }), PAUSE);
  };
  box.addEventListener("input", typing);
  box.addEventListener("change", (event) => {
    clearTimeout(pause);
    const { text, maps } = answer()?.get("prepared") ?? {};
    if (event.target.closest(".fusioner-names") && text === event.target.value) answer().set(maps);
  });
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
    if (image.width !== width || image.height !== height) [image.width, image.height] = [width, height];
    put();
    image.hidden = false;
    image.dataset.drawn = ++count;
    const ratio = width / height;
    el.classList.toggle("fusioner-broad", ratio > PANORAMA);
    frame.style.aspectRatio = ratio > PANORAMA ? ratio : "";
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
      if (turn === latest) show(next.width, next.height, () => {
        pen.clearRect(0, 0, next.width, next.height);
        pen.drawImage(next, 0, 0);
      });
    }
  };
  const redrawn = () => model.get("kind") && draw();
  // A slider changes more often than the screen: one picture a frame.
  const moved = () => (waiting ||= requestAnimationFrame(() => ((waiting = 0), redrawn())));
  const referred = (reference) => model.widget_manager.get_model(reference.slice("IPY_MODEL_".length));
  const joined = (async () => {
    answer = await referred(model.get("maps"));
    for (const name of ["threshold", "opacity"]) sliders[name] = await referred(answer.get(name));
    answer.on("change", redrawn);
    for (const slider of Object.values(sliders)) slider.on("change:value", moved);
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
  let former = []; // the pixel before the last click
  image.addEventListener("click", (event) => {
    if (event.detail > 1 || model.get("tool") !== "look") return;
    const inside = place(event).map((share) => Math.min(Math.max(share, 0), 1));
    former = answer?.get("pixel") ?? [];
    answer?.set("pixel", inside); // the cross is there at once, what the kernel says of the pixel follows
    model.send({ click: place(event) });
  });

  // Brush, eraser and box: the stroke is drawn here at once, and sent when the button is released.
  let stroke = null, corner = null, before = null;
  const trace = (event) => {
    stroke.push(place(event));
    const [box, pen] = [frame.getBoundingClientRect(), ink.getContext("2d")];
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const scale = Math.min(box.width / image.width, box.height / image.height);
    const reach = model.get("radius") * Math.min(image.width, image.height) * scale;
    pen.strokeStyle = model.get("tool") === "erase" ? "#fffc" : "#ff2fa0cc";
    if (model.get("tool") === "box") {
      corner = corner || [x, y];
      pen.clearRect(0, 0, ink.width, ink.height);
      pen.lineWidth = 2;
      pen.strokeRect(corner[0], corner[1], x - corner[0], y - corner[1]);
    } else {
      // A fast pointer is reported at a few places: a line joins them.
      [pen.lineWidth, pen.lineCap] = [2 * Math.max(1, reach), "round"];
      pen.beginPath();
      pen.moveTo(...(before || [x, y]));
      pen.lineTo(x, y);
      pen.stroke();
    }
    before = [x, y];
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
    stroke = corner = before = null;
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
  frame.addEventListener("dblclick", () => {
    if (model.get("tool") !== "look") return;
    if (former.length) { // the first click of the two moved the pixel
      answer.set("pixel", former);
      model.send({ click: former });
    }
    enlarge();
  });
  frame.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in moves) && event.key !== "Enter") return;
    // The notebook would take the key as its own and leave the cell.
    event.preventDefault();
    event.stopPropagation();
    event.key === "Enter" ? enlarge() : model.send({ move: moves[event.key] });
  });

  // The element joins the page after this function has returned.
  for (const wait of [0, 300, 2000]) setTimeout(() => attend(el.closest(".fusioner-inspector"), model, () => answer), wait);

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
    if (message?.stroked) requestAnimationFrame(() => stroke || (ink.width = ink.width)); // after the new picture
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
      for (const slider of Object.values(sliders)) slider.off("change:value", moved);
    });
    session?.statusChanged.disconnect(onStatus);
    session?.kernelChanged.disconnect(onKernel);
  };
}
export default { render };
