"use strict";
// Three things, each of use without the others: a card about the trial under the pointer, the same
// trial shown in every figure, and a spatial figure that turns. The page is whole without them.

const trials = JSON.parse(document.getElementById("trials").textContent);
const card = document.getElementById("card");
const marksOf = new Map();
for (const mark of document.querySelectorAll("[data-run]")) {
  const run = mark.dataset.run;
  if (!marksOf.has(run)) marksOf.set(run, []);
  marksOf.get(run).push(mark);
  mark.querySelector(":scope > title")?.remove(); // the card says more
}
let shown = null;
let pinned = false;

function pick(run) {
  if (run === shown) return;
  const change = (id, on) => {
    for (const mark of marksOf.get(id) ?? []) {
      mark.classList.toggle("hot", on);
      mark.closest("svg")?.classList.toggle("picking", on);
    }
  };
  if (shown !== null) change(shown, false);
  shown = run;
  if (run !== null) change(run, true);
}

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text; // never as HTML: a study's names may hold anything
  parent.append(made);
  return made;
}

function list(pairs) {
  if (!pairs.length) return;
  const dl = element("dl", "", card);
  for (const [name, value] of pairs) {
    const row = element("div", "", dl);
    element("dt", name, row);
    element("dd", value, row);
  }
}

function show(run, x, y) {
  const trial = trials[run];
  if (!trial) return;
  if (run !== shown || card.hidden) {
    card.replaceChildren();
    element("strong", trial.title, card);
    element("span", trial.state, card);
    list(trial.figures);
    list(trial.settings);
    card.hidden = false;
    pick(run);
  }
  const { width, height } = card.getBoundingClientRect();
  const left = x + 16 + width < innerWidth ? x + 16 : Math.max(8, x - 16 - width);
  card.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  card.style.top = `${Math.max(8, Math.min(y + 16, innerHeight - height - 8))}px`;
}

function hide() {
  card.hidden = true;
  pinned = false;
  pick(null);
}

// Lines are thin, and fingers are not: look around the pointer, nearest first.
function runAt(x, y, reach) {
  for (let far = 0; far <= reach; far += 3) {
    const steps = far ? 8 : 1;
    for (let step = 0; step < steps; step++) {
      const turn = (step * 2 * Math.PI) / steps;
      const place = [x + far * Math.cos(turn), y + far * Math.sin(turn)];
      const mark = document.elementFromPoint(...place)?.closest("[data-run]");
      if (mark) return mark.dataset.run;
    }
  }
  return null;
}

document.addEventListener("pointermove", (event) => {
  if (pinned || event.pointerType !== "mouse" || event.buttons) return;
  const inside = event.target.closest?.("svg, tr.mark");
  const run = inside ? runAt(event.clientX, event.clientY, 6) : null;
  if (run) show(run, event.clientX, event.clientY);
  else if (shown !== null) hide();
});
document.addEventListener("click", (event) => {
  const inside = event.target.closest?.("svg, tr.mark");
  const run = inside ? runAt(event.clientX, event.clientY, 15) : null;
  if (!run || (pinned && run === shown)) return hide();
  show(run, event.clientX, event.clientY);
  pinned = true;
});
document.addEventListener("focusin", (event) => {
  const mark = event.target.closest?.("[data-run]");
  if (!mark) return;
  const box = mark.getBoundingClientRect();
  show(mark.dataset.run, Math.min(box.right, innerWidth), box.bottom);
});
document.addEventListener("focusout", () => pinned || hide());
document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
addEventListener("scroll", () => pinned || hide(), { passive: true });

// The spatial figure, by the rules of View in analysis/report/scene.py.
class Solid {
  constructor(svg) {
    this.svg = svg;
    [this.angle, this.elevation, this.scale, this.cx, this.cy] = svg.dataset.view
      .split(",")
      .map(Number);
    svg.addEventListener("pointerdown", (event) => {
      this.from = [event.clientX, event.clientY];
      this.dragged = 0;
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!this.from) return;
      const [x, y] = [event.clientX - this.from[0], event.clientY - this.from[1]];
      this.from = [event.clientX, event.clientY];
      this.dragged += Math.abs(x) + Math.abs(y);
      this.turn(x * 0.5, event.pointerType === "mouse" ? y * 0.4 : 0);
    });
    for (const end of ["pointerup", "pointercancel"])
      svg.addEventListener(end, () => (this.from = null));
    // The end of a drag is no click on the trial that happens to be there.
    svg.addEventListener("click", (event) => this.dragged > 5 && event.stopPropagation());
    svg.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-6, 0], ArrowRight: [6, 0], ArrowUp: [0, 5], ArrowDown: [0, -5] };
      if (!(event.key in steps)) return;
      event.preventDefault();
      this.turn(...steps[event.key]);
    });
  }

  turn(across, up) {
    this.angle = (this.angle - across) % 360;
    this.elevation = Math.min(85, Math.max(3, this.elevation + up));
    this.draw();
  }

  at(text) {
    const [sin, cos] = [Math.sin, Math.cos].map((f) => f((this.angle * Math.PI) / 180));
    const tilt = (this.elevation * Math.PI) / 180;
    const right = [sin > 0, cos > 0].map(Number);
    const sides = {
      2: [1 - right[0], 1 - right[1]], // NEAR
      3: right, // FAR
      4: [1 - right[1], right[0]], // LEFT
      5: [right[1], 1 - right[0]], // RIGHT
    };
    const place = text.split(",").map(Number);
    const [x, y, z] = place.map((c, axis) => (axis < 2 && sides[c] ? sides[c][axis] : c) - 0.5);
    const depth = x * sin + y * cos;
    const up = z * Math.cos(tilt) + depth * Math.sin(tilt);
    return [this.cx + this.scale * (x * cos - y * sin), this.cy - this.scale * up, depth];
  }

  draw() {
    const set = (node, values) => {
      for (const [name, value] of Object.entries(values))
        node.setAttribute(name, typeof value === "number" ? value.toFixed(1) : value);
    };
    for (const node of this.svg.querySelectorAll("[data-p]")) {
      const [x, y, depth] = this.at(node.dataset.p);
      if (node.tagName === "line") {
        const [x2, y2] = this.at(node.dataset.q);
        set(node, { x1: x, y1: y, x2, y2 });
      } else if (node.tagName === "circle") {
        set(node, { cx: x, cy: y });
        node.parentNode.depth = depth;
      } else {
        const [dx, dy] = [x - this.cx, y - this.cy];
        const length = Math.hypot(dx, dy) || 1;
        const side = dx > 0 ? "start" : "end";
        const middle = "centred" in node.dataset || Math.abs(dx) < 0.5 * length;
        const push = Number(node.dataset.push) / length;
        set(node, { x: x + push * dx, y: y + push * dy, "text-anchor": middle ? "middle" : side });
      }
    }
    const marks = [...this.svg.querySelectorAll(".mark")];
    this.svg.append(...marks.sort((a, b) => b.depth - a.depth));
  }
}
for (const svg of document.querySelectorAll("svg.solid")) new Solid(svg);
