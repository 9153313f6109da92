// What the page shows of the dropped figures. Every text from the server becomes a text node, never markup.
const root = element.querySelector(".fe-viewer");
const SVG = "http://www.w3.org/2000/svg";
const MODES = [["high-precision", "few false alarms (0.80)"], ["balanced", "balanced (0.70)"], ["default", "default (0.65)"],
  ["high-recall", "miss little (0.60)"], ["max-recall", "miss least (0.55)"]];
const VERDICTS = {right: "right", wrong: "wrong", natural: "natural"};
const ADJUSTMENTS = [["brightness", "Brightness", -1, 1, 0], ["contrast", "Contrast", 0.2, 5, 1], ["gamma", "Gamma", 0.2, 4, 1]];
const fresh = () => ({brightness: 0, contrast: 1, gamma: 1, invert: false, colours: "as it is"});
const state = {value: null, place: 0, data: null, decision: null, chosen: null, copy: 0, mode: "default", threshold: 0.5,
  show: {panels: true, findings: true, points: true, mask: false}, opacity: 0.25, view: "the figure", viewOpacity: 1, views: {},
  adjust: fresh(), zoom: {scale: 1, x: 0, y: 0}, still: false};
let parts = {}, asked = 0;

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "rect", "text", "g", "filter", "feColorMatrix", "feComponentTransfer", "feFuncR", "feFuncG",
    "feFuncB"].includes(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== false));
  return node;
}
const option = (value, text, chosen) => make("option", {value, selected: value === chosen}, text);
const two = (number) => (number >= 0.995 ? "> 0.99" : number.toFixed(2));
const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;

async function ask(name, more = {}) {
  const question = {token: state.value.token, figure: state.place, mode: state.mode, threshold: state.threshold, ...more};
  let answer;
  try { answer = await server[name](question); } catch (error) { answer = {error: "the program does not answer. Is it still running?"}; }
  say(answer.error || "");
  return answer.error ? null : answer;
}
function say(text) {
  if (!parts.error) return;
  parts.error.textContent = text;
  parts.error.hidden = !text;
}

// ---- a new drop
function open() {
  const value = props.value, before = state.value;
  state.value = value && value.token ? value : null;
  if (!state.value) { root.replaceChildren(); return; }
  if (!before || before.token !== value.token) {
    Object.assign(state, {place: 0, data: null, decision: null, chosen: null, touched: false});
    parts = {step: make("div", {class: "fe-step", role: "status"}), error: make("p", {class: "fe-unread", role: "alert", hidden: true}),
      read: make("div"), strip: make("div", {class: "fe-strip", role: "group", "aria-label": "figures"}), figure: make("div")};
    root.replaceChildren(parts.step, parts.error, parts.read, parts.strip, parts.figure);
  }
  parts.step.hidden = value.done;
  parts.step.replaceChildren(make("progress"), make("span", {class: "fe-name"}, `${value.step} … (${value.figures.length + value.clips.length} done)`));
  parts.read.replaceChildren(...value.unread.map((one) => make("p", {class: "fe-unread", role: "alert"}, make("b", {class: "fe-name"}, one.name), ": ", one.text)),
    ...value.clips.map(clip));
  strip();
  if (!value.figures.length) return;
  // When all are examined, what figures share is known too, and the most serious one is shown.
  if (value.done) choose(state.touched ? state.place : worst());
  else if (!state.data) choose(0);
}
function worst() {
  const most = state.value.figures.map((one) => Math.max(0, ...one.counts));
  return most.indexOf(Math.max(...most));
}
function clip(one) {
  const numbers = `probability that a face is fake ${two(one.probability)}, threshold ${two(one.threshold)}`;
  return make("section", {class: "fe-clip"},
    make("div", {class: `fe-verdict ${one.verdict === "fake" ? "found" : ""}`}, make("h2", {}, make("span", {class: "fe-name"}, one.name), `: ${one.verdict}`),
      make("p", {}, numbers), ...one.warnings.map((text) => make("p", {class: "fe-subdued"}, text))),
    one.timeline ? make("img", {src: one.timeline, alt: "score of each frame over time"}) : null,
    one.contact_sheet ? make("img", {src: one.contact_sheet, alt: "frames, and what raised the score in them"}) : null);
}
function strip() {
  const figures = state.value.figures;
  parts.strip.hidden = figures.length < 2;
  parts.strip.replaceChildren(...figures.map((one, place) => {
    const n = one.counts.filter((score) => score >= state.threshold).length;
    return make("button", {class: `fe-thumb ${place === state.place ? "on" : ""}`, title: one.name, "aria-pressed": `${place === state.place}`, onclick: () => { state.touched = true; choose(place); }},
      make("img", {src: one.thumbnail, alt: ""}), make("span", {class: "fe-name"}, one.name),
      make("span", {class: n ? "fe-found" : "fe-subdued"}, n ? count(n, "finding", "findings") : "nothing found"));
  }));
}

// ---- one figure
async function choose(place) {
  Object.assign(state, {place, chosen: null, copy: 0, view: "the figure", views: {}, zoom: {scale: 1, x: 0, y: 0}});
  strip();
  const data = await ask("figure");
  if (!data || state.place !== place) return;
  state.data = data;
  state.decision = null;
  fill();
  refresh();
}
function fill() {
  const data = state.data;
  parts.verdict = make("div", {class: "fe-verdict", "aria-live": "polite"});
  parts.list = make("div", {class: "fe-list", role: "list"});
  parts.compare = make("section", {class: "fe-compare", hidden: true});
  parts.sheet = make("div");
  parts.figure.replaceChildren(
    parts.verdict,
    make("div", {class: "fe-grid"},
      make("div", {}, tools(), stage(), parts.compare, parts.sheet),
      make("aside", {}, controls(), parts.list, downloads())));
  apply();
}
function tools() {
  const check = (name, text) => make("label", {}, make("input", {type: "checkbox", checked: state.show[name], "data-show": name,
    onchange: (event) => { state.show[name] = event.target.checked; draw(); }}), text);
  const names = ["the figure", ...state.data.views];
  const texts = {"the figure": "the figure", "error level": "error level (JPEG)", noise: "noise", "networks' map": "networks' map", "each network": "map of each network", generated: "generated? (script 7)"};
  parts.viewOpacity = make("input", {type: "range", min: 0, max: 1, step: 0.01, value: state.viewOpacity, "aria-label": "opacity of the view",
    oninput: (event) => { state.viewOpacity = +event.target.value; draw(); }});
  return make("div", {},
    make("div", {class: "fe-tools"},
      state.data.panels.length ? check("panels", "panels") : null, check("findings", "findings"), check("points", "matching points"), check("mask", "mask of the verdict"),
      make("label", {}, "opacity", make("input", {type: "range", min: 0, max: 1, step: 0.01, value: state.opacity, "data-opacity": true,
        "aria-label": "opacity of findings and mask", oninput: (event) => { state.opacity = +event.target.value; draw(); }})),
      make("label", {}, "show", make("select", {"aria-label": "view", onchange: (event) => look(event.target.value)}, names.map((name) => option(name, texts[name], state.view)))),
      parts.viewOpacity),
    adjustments());
}
function adjustments() {
  const body = make("div", {class: "fe-adjust"});
  const rebuild = () => body.replaceChildren(
    ...ADJUSTMENTS.map(([name, text, least, most]) => {
      const shown = make("output", {}, state.adjust[name].toFixed(2));
      return make("label", {}, text, make("input", {type: "range", min: least, max: most, step: 0.01, value: state.adjust[name], "data-adjust": name,
        oninput: (event) => { state.adjust[name] = +event.target.value; shown.textContent = state.adjust[name].toFixed(2); apply(); }}), shown);
    }),
    make("label", {}, "Colours", make("select", {"aria-label": "colours", onchange: (event) => { state.adjust.colours = event.target.value; apply(); }},
      ["as it is", "gray", ...Object.keys(state.value.colours)].map((name) => option(name, name.replaceAll("_", " "), state.adjust.colours)))),
    make("div", {class: "fe-tools"},
      make("label", {style: "display:inline-flex"}, make("input", {type: "checkbox", checked: state.adjust.invert, "data-adjust": "invert",
        onchange: (event) => { state.adjust.invert = event.target.checked; apply(); }}), "inverted"),
      make("button", {onclick: () => { state.adjust = fresh(); rebuild(); apply(); }}, "as it was")));
  rebuild();
  return make("details", {class: "fe-subdued"}, make("summary", {}, "Brightness, contrast, gamma, inversion, colours"), body);
}
// One SVG filter for all pictures of the figure: the browser applies it at once.
function apply() {
  const {brightness, contrast, gamma, invert, colours} = state.adjust;
  const slope = invert ? -contrast : contrast;
  const offset = (invert ? 1 : 0) + (invert ? -1 : 1) * (0.5 - 0.5 * contrast + brightness);
  const transfer = (attributes) => make("feComponentTransfer", {}, ["feFuncR", "feFuncG", "feFuncB"].map((tag, n) => make(tag, attributes(n))));
  const steps = [transfer(() => ({type: "linear", slope, intercept: offset})), transfer(() => ({type: "gamma", amplitude: 1, exponent: 1 / gamma, offset: 0}))];
  if (colours !== "as it is") steps.push(make("feColorMatrix", {type: "matrix", values: `${".299 .587 .114 0 0 ".repeat(3)}0 0 0 1 0`}));
  const table = state.value.colours[colours];
  if (table) steps.push(transfer((n) => ({type: "table", tableValues: table[n].join(" ")})));
  const plain = JSON.stringify(state.adjust) === JSON.stringify(fresh());
  if (!parts.filter || !parts.filter.isConnected) {
    parts.filter = make("svg", {width: 0, height: 0, style: "position:absolute"});
    root.append(parts.filter);
  }
  parts.filter.replaceChildren(make("filter", {id: "fe-adjusted", "color-interpolation-filters": "sRGB", x: 0, y: 0, width: "100%", height: "100%"}, ...steps));
  for (const picture of root.querySelectorAll("img.fe-picture")) picture.style.filter = plain ? "" : "url(#fe-adjusted)";
}
function stage() {
  const data = state.data;
  parts.view = make("img", {class: "fe-over fe-picture", alt: "", hidden: true});
  parts.mask = make("img", {class: "fe-over", alt: "", "data-layer": "mask", hidden: true});
  parts.overlay = make("svg", {viewBox: `0 0 ${data.width} ${data.height}`, preserveAspectRatio: "none"});
  parts.moved = make("div", {class: "fe-moved", style: `width: min(100%, ${(72 * data.width) / data.height}vh)`},
    make("img", {class: "fe-figure fe-picture", src: data.picture, alt: `figure ${data.name}`, draggable: "false"}),
    parts.view, parts.mask, parts.overlay);
  const box = make("div", {class: "fe-stage", title: "wheel: enlarge; drag: move; double click: whole figure"}, parts.moved);
  let from = null;
  const move = () => { const {scale, x, y} = state.zoom; parts.moved.style.transform = `translate(${x}px, ${y}px) scale(${scale})`; };
  box.addEventListener("wheel", (event) => {
    event.preventDefault();
    const around = parts.moved.offsetLeft, area = box.getBoundingClientRect(), zoom = state.zoom;
    const scale = Math.min(20, Math.max(1, zoom.scale * Math.exp(-event.deltaY / 400)));
    const x = event.clientX - area.left - around, y = event.clientY - area.top;
    zoom.x = x - ((x - zoom.x) * scale) / zoom.scale;
    zoom.y = y - ((y - zoom.y) * scale) / zoom.scale;
    zoom.scale = scale;
    if (scale === 1) zoom.x = zoom.y = 0;
    move();
  }, {passive: false});
  box.addEventListener("pointerdown", (event) => { from = {x: event.clientX - state.zoom.x, y: event.clientY - state.zoom.y}; });
  box.addEventListener("pointermove", (event) => {
    if (!from || state.zoom.scale === 1) return;
    state.zoom.x = event.clientX - from.x;
    state.zoom.y = event.clientY - from.y;
    move();
  });
  for (const name of ["pointerup", "pointerleave"]) box.addEventListener(name, () => { from = null; });
  box.addEventListener("dblclick", () => { Object.assign(state.zoom, {scale: 1, x: 0, y: 0}); move(); });
  move();
  return box;
}
function controls() {
  const shown = make("output", {}, state.threshold.toFixed(2));
  return make("div", {class: "fe-controls"},
    make("label", {}, "Findings from score", make("input", {type: "range", min: 0.05, max: 1, step: 0.01, value: state.threshold, "data-control": "threshold",
      oninput: (event) => { state.threshold = +event.target.value; shown.textContent = state.threshold.toFixed(2); strip(); refresh(); }}), shown),
    make("label", {}, "Called forged when", make("select", {"data-control": "mode", onchange: (event) => { state.mode = event.target.value; refresh(); }},
      MODES.map(([name, text]) => option(name, text, state.mode)))));
}
function downloads() {
  const kinds = [["mask", "Mask (PNG)"], ["row", "Submission row (CSV)"], ["json", "Findings (JSON)"], ["report", "Report (HTML)"]];
  return make("div", {class: "fe-downloads"}, make("span", {class: "fe-subdued"}, "Download"),
    kinds.map(([kind, text]) => make("button", {"data-download": kind, onclick: (event) => fetch_(kind, event.target)}, text)));
}
async function fetch_(kind, button) {
  button.disabled = true;
  const file = await ask("download", {kind});
  button.disabled = false;
  if (!file) return;
  const bytes = Uint8Array.from(atob(file.data), (letter) => letter.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([bytes]));
  make("a", {href: address, download: file.name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// ---- verdict, list and outlines
async function refresh() {
  const number = ++asked;
  const decision = await ask("decision");
  if (!decision || number !== asked) return;
  state.decision = decision;
  draw();
}
const shownFindings = () => state.data.findings.filter((one) => one.score >= state.threshold || (state.decision && state.decision.marks[one.id]));
function draw() {
  const {decision, data} = state;
  if (!decision || !data) return;
  const findings = shownFindings();
  if (state.chosen && !findings.some((one) => one.id === state.chosen)) { state.chosen = null; parts.compare.hidden = true; }
  const open_ = findings.filter((one) => !one.natural && !["wrong", "natural"].includes((decision.marks[one.id] || {}).verdict));
  const hidden = data.findings.filter((one) => !one.natural).length - findings.filter((one) => !one.natural).length;
  const head = open_.length ? `${count(open_.length, "place", "places")} to look at` : "Nothing to look at was found";
  const generated = data.generated ? `As a whole: ${data.generated.verdict}, probability that it is generated ${two(data.generated.probability)}.` : "";
  parts.verdict.className = `fe-verdict ${open_.length ? "found" : ""}`;
  parts.verdict.replaceChildren(
    make("h2", {"data-verdict": true}, make("span", {class: "fe-name"}, data.name), `: ${head}`),
    make("p", {"data-called": true}, decision.text, generated ? ` ${generated}` : ""),
    make("p", {class: "fe-subdued"}, [hidden ? `${count(hidden, "finding", "findings")} below the score ${state.threshold.toFixed(2)} left out.` : "",
      open_.length ? "A finding is a place to look at, not a proof of misconduct." : "That does not show that the figure is authentic.",
      data.note].filter(Boolean).join(" ")));
  parts.list.replaceChildren(...(findings.length ? findings.map(item) : [make("p", {class: "fe-subdued"}, "No findings from this score on.")]));
  parts.mask.src = decision.mask || "data:,";
  parts.mask.hidden = !state.show.mask || !decision.mask;
  parts.mask.style.opacity = Math.max(state.opacity, 0.05);
  parts.mask.dataset.regions = decision.regions;
  parts.mask.dataset.pixels = decision.pixels;
  const view = state.views[state.view];
  parts.view.hidden = !view;
  if (view) parts.view.src = view;
  parts.view.style.opacity = state.viewOpacity;
  parts.viewOpacity.hidden = !view;
  const letters = Math.max(data.width, data.height) / 55;
  parts.overlay.replaceChildren(
    ...(state.show.panels ? data.panels : []).map(({name, kind, box: [x, y, width, height]}) => make("g", {class: "fe-panel"},
      make("rect", {x, y, width, height}), make("text", {x: x + letters / 3, y: y + height - letters / 2, "font-size": letters}, `${name} · ${kind}`))),
    ...(state.show.findings ? [...findings].reverse() : []).flatMap((one) => {
      const chosen = one.id === state.chosen;
      if (state.chosen && !chosen) return [];
      const copies = chosen && one.copies.length > 1 ? [one.copies[state.copy]] : one.copies;
      const lines = chosen && state.show.points ? one.lines[state.copy] || [] : [];
      const regions = copies.flat().map((d) => make("path", {class: `fe-region ${one.relation === "altered" ? "altered" : ""} ${chosen ? "chosen" : ""}`, d, stroke: one.colour,
        fill: one.colour, "fill-opacity": one.natural && !chosen ? state.opacity / 3 : state.opacity, "data-finding": one.id, onclick: () => pick(one)}));
      return [...regions, ...lines.map(([x1, y1, x2, y2]) => make("line", {class: "fe-line", x1, y1, x2, y2, stroke: one.colour}))];
    }));
}
function item(one) {
  const said = state.decision.marks[one.id], counted = state.decision.counted.includes(one.id);
  const tags = [said ? make("span", {class: "fe-tag said"}, `you: ${VERDICTS[said.verdict]}${said.reason ? ` (${said.reason})` : ""}`) : null,
    one.natural && !said ? make("span", {class: "fe-tag"}, "natural") : null, counted ? make("span", {class: "fe-tag in"}, "in the mask") : null];
  const mark = (verdict, reason = "") => (event) => { event.stopPropagation(); say_(one, said && said.verdict === verdict && !reason ? null : verdict, reason); };
  const natural = make("select", {"aria-label": "natural", onclick: (event) => event.stopPropagation(),
    onchange: (event) => { say_(one, event.target.value ? "natural" : null, event.target.value); }},
    option("", "natural …", ""), ...state.value.reasons.map((reason) => option(reason, `natural: ${reason}`, said && said.verdict === "natural" ? said.reason : "")));
  return make("article", {class: `fe-finding ${one.id === state.chosen ? "chosen" : ""} ${one.natural || (said && said.verdict !== "right") ? "out" : ""}`, role: "listitem",
      tabindex: 0, style: `border-left-color:${one.colour}`, "data-finding": one.id, onclick: () => pick(one),
      onkeydown: (event) => { if (event.key === "Enter" && event.target === event.currentTarget) pick(one); }},
    make("header", {}, make("b", {}, one.title), ...tags, make("b", {}, two(one.score))),
    make("p", {class: "fe-name"}, one.sentence),
    make("p", {class: "fe-subdued"}, one.evidence),
    one.natural ? make("p", {class: "fe-subdued"}, `Natural by the program's rules: ${one.natural}.`) : null,
    one.between ? make("p", {class: "fe-subdued"}, "Between two figures, so not in the mask of either.") : null,
    make("div", {class: "fe-marks"},
      make("button", {class: said && said.verdict === "right" ? "on" : "", "data-mark": "right", onclick: mark("right")}, "right"),
      make("button", {class: said && said.verdict === "wrong" ? "on" : "", "data-mark": "wrong", onclick: mark("wrong")}, "wrong"), natural));
}
async function say_(one, verdict, reason) {
  const number = ++asked;
  const decision = await ask("mark", {finding: one.id, verdict, reason});
  if (!decision || number !== asked) return;
  state.decision = decision;
  draw();
}

// ---- one finding: its places side by side
async function pick(one) {
  if (state.chosen === one.id) { state.chosen = null; parts.compare.hidden = true; draw(); return; }
  state.chosen = one.id;
  state.copy = 0;
  draw();
  compare(one);
}
async function compare(one) {
  const found = await ask("compare", {finding: one.id, copy: state.copy});
  if (!found || state.chosen !== one.id) return;
  const path = (stroke) => make("svg", {viewBox: `0 0 ${found.width} ${found.height}`, preserveAspectRatio: "none"}, make("path", {d: found.outline, stroke}));
  const picture = ({name, picture}) => make("img", {class: "fe-picture", src: picture, alt: name});
  const framed = (shown) => make("figure", {}, make("div", {class: "fe-frame"}, picture(shown), path(one.colour)), make("figcaption", {}, shown.name));
  const frames = found.pictures.map(framed);
  if (found.flicker) {
    const box = make("div", {class: `fe-frame fe-flicker ${state.still ? "still" : ""}`}, picture(found.pictures[0]), picture(found.pictures[1]));
    const button = make("button", {"data-flicker": true, onclick: () => { state.still = !state.still; box.classList.toggle("still", state.still); button.textContent = state.still ? "play" : "stop"; }}, state.still ? "play" : "stop");
    frames.push(make("figure", {}, box, make("figcaption", {}, "flicker between the two ", button)));
  }
  const several = one.copies.length > 1 ? make("label", {}, "pair", make("select", {"aria-label": "pair", onchange: (event) => { state.copy = +event.target.value; draw(); compare(one); }},
    one.copies.map((_, n) => option(n, `${n + 1} of ${one.copies.length}, ${two(one.scores[n])}`, state.copy)))) : null;
  parts.compare.hidden = false;
  parts.compare.replaceChildren(make("div", {class: "fe-tools"}, make("h3", {}, one.title), several), make("p", {class: "fe-name"}, one.sentence), make("div", {class: "fe-pictures"}, ...frames));
  apply();
}

// ---- other views of the figure
async function look(name) {
  state.view = name;
  parts.sheet.replaceChildren();
  if (name !== "the figure" && !state.views[name]) {
    const found = await ask("view", {view: name});
    if (!found || state.view !== name) return;
    if (found.pictures) parts.sheet.replaceChildren(make("div", {class: "fe-pictures", "data-networks": true}, found.pictures.map(({name, picture}) =>
      make("figure", {}, make("img", {class: "fe-map", src: picture, alt: `map of ${name}`}), make("figcaption", {class: "fe-name"}, name)))));
    else if (found.sheet) parts.sheet.replaceChildren(make("pre", {class: "fe-subdued"}, found.text), make("img", {class: "fe-sheet", src: found.sheet, alt: "what the verdict of script 7 rests on"}));
    else state.views[name] = found.picture;
  }
  draw();
  apply();
}

watch("value", open);
open();
