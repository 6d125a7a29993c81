// One picture in a frame of fixed size. It reports clicks and arrow keys; pictures are swapped without a flicker.
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
  const image = make("img", frame, "");
  const caption = make("div", el, "fusioner-caption");
  frame.tabIndex = 0;
  frame.setAttribute("role", "application");
  frame.setAttribute("aria-roledescription", "picture; arrow keys move the inspected pixel");
  image.draggable = false;
  let shown = "";

  const words = () => {
    title.textContent = title.title = model.get("title");
    caption.textContent = caption.title = model.get("caption");
    image.alt = `${model.get("title")}: ${model.get("caption")}`;
    frame.setAttribute("aria-label", image.alt);
  };
  const draw = () => {
    const address = URL.createObjectURL(new Blob([model.get("content")], { type: model.get("media") }));
    const next = new Image();
    // The old picture stays until the new one is decoded; of two on their way the later one counts.
    shown = address;
    next.onload = () => {
      if (shown !== address) return URL.revokeObjectURL(address);
      const old = image.src;
      image.src = address;
      if (old) URL.revokeObjectURL(old);
    };
    next.src = address;
  };
  image.addEventListener("click", (event) => {
    const box = image.getBoundingClientRect();
    const place = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    model.send({ click: place });
  });
  frame.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in moves)) return;
    // The notebook would take the arrow as its own and leave the cell.
    event.preventDefault();
    event.stopPropagation();
    model.send({ move: moves[event.key] });
  });
  model.on("change:content", draw);
  model.on("change:title change:caption", words);
  words();
  draw();
}
export default { render };
