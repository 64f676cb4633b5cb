"use strict";
// Draws a traced step: rows of workers by time, above them the critical path, what workers do, and
// the stream of weights. All times are nanoseconds.

const data = JSON.parse(document.getElementById("data").textContent);
const CAUSES = ["event", "data", "weights", "compute"];
const CAUSE_TEXT = {
  event: "waiting for an event", data: "waiting for data", weights: "waiting for weights",
  compute: "computing", slot: "waiting for a slot",
};
const CAUSE_COLOUR = { event: "#dfe4ea", data: "#f0a35e", weights: "#7fb2e5", compute: "#3c9d6b" };
const PALETTE = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2",
  "#97bbf5", "#9c6b4e", "#7f8c8d", "#17a2b8", "#c0392b", "#8e9a2f", "#5d3a9b"];
const GUTTER = 74, AXIS = 22, PATH = 26, SHARE = 64, BYTES = 72, GAP = 8;
const ROWS_TOP = AXIS + PATH + SHARE + BYTES + 4 * GAP;

const colour = (operator) => PALETTE[operator % PALETTE.length];
const micro = (ns) => (ns / 1000).toFixed(Math.abs(ns) < 1e6 ? 2 : 1) + " us";
const number = (x, digits = 1) => x.toLocaleString("en", { maximumFractionDigits: digits });
const escaped = (text) => String(text).replace(/[&<>"]/g,
  (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

async function unpacked(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Kind(await new Response(stream).arrayBuffer());
}

class Page {
  constructor(columns, series) {
    Object.assign(this, columns, series);
    this.count = this.row.length;
    this.canvas = document.getElementById("view");
    this.tip = document.getElementById("tip");
    this.from = 0;
    this.to = data.end;
    this.mode = "operator";
    this.showPath = true;
    this.showPlan = false;
    this.hidden = new Set();
    this.filter = "";
    this.firstOfRow = new Int32Array(data.rows + 1);
    for (let i = 0; i < this.count; ++i) this.firstOfRow[this.row[i] + 1] = i + 1;
    for (let r = 1; r <= data.rows; ++r)
      this.firstOfRow[r] = Math.max(this.firstOfRow[r], this.firstOfRow[r - 1]);
    this.planned = data.has_plan ? this.orderOfPlan() : null;
    this.linkOf = new Map(data.path.map((link, k) => [link[0], k]));
    this.rowHeight = Math.max(4, Math.min(28, Math.floor(700 / data.rows)));
    this.listen();
    this.resize();
  }

  // Tasks by the row and time that the plan gives them.
  orderOfPlan() {
    const order = Array.from({ length: this.count }, (_, i) => i);
    order.sort((a, b) => this.plan_row[a] - this.plan_row[b] || this.plan_start[a] - this.plan_start[b]);
    const first = new Int32Array(data.rows + 1);
    order.forEach((task, k) => { first[this.plan_row[task] + 1] = k + 1; });
    for (let r = 1; r <= data.rows; ++r) first[r] = Math.max(first[r], first[r - 1]);
    return { order, first };
  }

  // ---- places ----

  x(time) { return GUTTER + (time - this.from) / (this.to - this.from) * (this.width - GUTTER); }
  time(x) { return this.from + (x - GUTTER) / (this.width - GUTTER) * (this.to - this.from); }
  y(row) { return ROWS_TOP + row * this.rowHeight; }
  operator(task) { return data.families[this.family[task]].operator; }
  isShown(task) {
    const family = data.families[this.family[task]];
    return !this.hidden.has(family.operator) && (!this.filter || family.name.includes(this.filter));
  }
  // The first of [begin, end) for which `is` holds; it holds for all that follow.
  static search(begin, end, is) {
    while (begin < end) {
      const middle = (begin + end) >> 1;
      if (is(middle)) end = middle; else begin = middle + 1;
    }
    return begin;
  }

  // ---- drawing ----

  resize() {
    const scale = window.devicePixelRatio || 1;
    this.width = this.canvas.parentElement.clientWidth;
    this.height = ROWS_TOP + data.rows * this.rowHeight + 4;
    this.canvas.style.height = this.height + "px";
    this.canvas.width = Math.round(this.width * scale);
    this.canvas.height = Math.round(this.height * scale);
    this.context = this.canvas.getContext("2d");
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.draw();
  }
  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.draw(); });
  }
  draw() {
    const c = this.context;
    c.clearRect(0, 0, this.width, this.height);
    c.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    c.textBaseline = "middle";
    this.drawRows(c);
    if (this.showPath) this.drawPathOnRows(c);
    c.fillStyle = "#fff";
    c.fillRect(0, 0, GUTTER, this.height);
    c.fillRect(0, 0, this.width, ROWS_TOP - GAP / 2);
    this.drawAxis(c);
    this.drawPath(c);
    this.drawShares(c);
    this.drawBytes(c);
    this.drawRowLabels(c);
  }
  label(c, text, y) {
    c.fillStyle = "#465364";
    c.textAlign = "right";
    c.fillText(text, GUTTER - 6, y);
  }
  drawAxis(c) {
    const rough = (this.to - this.from) / Math.max(2, (this.width - GUTTER) / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((f) => f * power >= rough);
    this.label(c, "us", AXIS / 2);
    c.textAlign = "center";
    for (let t = Math.ceil(this.from / step) * step; t <= this.to; t += step) {
      const x = this.x(t);
      c.fillStyle = "#eef1f5";
      c.fillRect(x, AXIS, 1, ROWS_TOP - AXIS);
      c.fillStyle = "#465364";
      c.fillText(number(t / 1000, 3), x, AXIS / 2);
    }
  }
  drawPath(c) {
    const top = AXIS + GAP / 2;
    this.label(c, "path", top + PATH / 2);
    for (const [task, , begin, handoff, weights, end] of data.path) {
      if (end < this.from || begin > this.to) continue;
      const x0 = Math.max(GUTTER, this.x(begin)), x1 = Math.min(this.width, this.x(end));
      if (x1 <= x0) continue;
      c.fillStyle = colour(this.operator(task));
      c.fillRect(x0, top, Math.max(.6, x1 - x0), PATH);
      const parts = [["#d62728", begin, begin + handoff], ["#7fb2e5", begin + handoff,
        begin + handoff + weights]];
      parts.forEach(([fill, a, b]) => {
        const xa = Math.max(GUTTER, this.x(a)), xb = Math.min(this.width, this.x(b));
        if (xb <= xa) return;
        c.fillStyle = fill;
        c.fillRect(xa, top + PATH - 7, xb - xa, 7);
      });
    }
  }
  bins(visit) {
    const count = data.bins, width = data.end / count;
    const first = Math.max(0, Math.floor(this.from / width));
    const last = Math.min(count - 1, Math.ceil(this.to / width));
    const step = Math.max(1, Math.floor((last - first) / (this.width - GUTTER)));
    for (let bin = first; bin <= last; bin += step) {
      const x0 = Math.max(GUTTER, this.x(bin * width));
      const x1 = Math.min(this.width, this.x((bin + step) * width));
      if (x1 > x0) visit(bin, Math.min(count, bin + step), x0, x1);
    }
  }
  static mean(values, begin, end) {
    let sum = 0;
    for (let i = begin; i < end; ++i) sum += values[i];
    return sum / (end - begin);
  }
  drawShares(c) {
    const top = AXIS + PATH + 1.5 * GAP;
    this.label(c, "workers", top + SHARE / 2);
    this.bins((a, b, x0, x1) => {
      let y = top + SHARE;
      for (const cause of ["compute", "weights", "data", "event"]) {
        const height = SHARE * Page.mean(this["share_" + cause], a, b);
        c.fillStyle = CAUSE_COLOUR[cause];
        c.fillRect(x0, y - height, x1 - x0 + .4, height);
        y -= height;
      }
    });
  }
  drawBytes(c) {
    const top = AXIS + PATH + SHARE + 2.5 * GAP, most = Math.max(1, data.most_in_flight);
    this.label(c, "in flight", top + 12);
    this.label(c, number(most / 1e6, 2) + " MB", top + 27);
    this.label(c, "GB/s", top + BYTES - 22);
    this.label(c, number(data.most_rate, 0), top + BYTES - 8);
    const line = [];
    this.bins((a, b, x0, x1) => {
      const height = BYTES * Page.mean(this.in_flight, a, b) / most;
      c.fillStyle = "#c9d7e8";
      c.fillRect(x0, top + BYTES - height, x1 - x0 + .4, height);
      line.push([(x0 + x1) / 2, top + BYTES * (1 - Page.mean(this.rate, a, b) / data.most_rate)]);
    });
    c.strokeStyle = "#1f4e8c";
    c.beginPath();
    line.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
    c.stroke();
    if (data.bandwidth) {
      const y = top + BYTES * (1 - data.bandwidth / data.most_rate);
      c.strokeStyle = "#d62728";
      c.setLineDash([5, 4]);
      c.beginPath();
      c.moveTo(GUTTER, y);
      c.lineTo(this.width, y);
      c.stroke();
      c.setLineDash([]);
    }
  }
  drawRowLabels(c) {
    const every = Math.max(1, Math.ceil(14 / this.rowHeight));
    for (let row = 0; row < data.rows; row += every)
      this.label(c, row < data.workers ? data.worker_name + " " + row : "given out",
        this.y(row) + this.rowHeight / 2);
  }
  drawRows(c) {
    const isPlanned = this.showPlan && this.planned;
    const height = this.rowHeight * (isPlanned ? .55 : 1) - (this.rowHeight > 6 ? 1 : 0);
    for (let row = 0; row < data.rows; ++row) {
      const y = this.y(row), end = this.firstOfRow[row + 1];
      let i = Page.search(this.firstOfRow[row], end, (k) => this.done[k] > this.from);
      for (let last = -1; i < end && this.turned[i] < this.to; ++i) {
        const x1 = this.x(this.computed[i]);
        if (x1 - last < .35 && i + 1 < end) continue;  // too short to be seen
        this.drawTask(c, i, y, height, Math.max(last, this.x(this.turned[i])));
        last = x1;
      }
      if (isPlanned) this.drawPlan(c, row, y + this.rowHeight * .6, this.rowHeight * .36);
    }
  }
  drawTask(c, i, y, height, from) {
    const dim = !this.isShown(i);
    const own = colour(this.operator(i));
    const times = [this.turned[i], this.ready[i], this.data[i], this.weights[i], this.computed[i]];
    let x0 = from;
    for (let k = 0; k < 4; ++k) {
      const x1 = this.x(times[k + 1]);
      if (x1 <= x0) continue;
      let fill = CAUSE_COLOUR[CAUSES[k]];
      c.globalAlpha = dim ? .15 : 1;
      if (this.mode === "operator" && k >= 2) {
        fill = own;
        if (!dim && k === 2) c.globalAlpha = .55;
      }
      c.fillStyle = fill;
      c.fillRect(x0, y, x1 - x0, height);
      x0 = x1;
    }
    c.globalAlpha = 1;
    if (x0 - from > 3 && this.rowHeight > 3) {
      c.fillStyle = "rgba(255,255,255,.7)";
      c.fillRect(x0 - .6, y, .6, height);
    }
  }
  drawPlan(c, row, y, height) {
    const { order, first } = this.planned;
    for (let k = first[row], last = -1; k < first[row + 1]; ++k) {
      const i = order[k], x0 = this.x(this.plan_start[i]), x1 = this.x(this.plan_end[i]);
      if (x1 < GUTTER || x1 - last < .35) continue;
      if (x0 > this.width) break;
      c.globalAlpha = this.isShown(i) ? .8 : .12;
      c.fillStyle = colour(this.operator(i));
      c.fillRect(Math.max(x0, last), y, Math.max(.4, x1 - Math.max(x0, last)), height);
      last = x1;
    }
    c.globalAlpha = 1;
  }
  drawPathOnRows(c) {
    c.strokeStyle = "rgba(0,0,0,.75)";
    c.lineWidth = 1;
    c.beginPath();
    let before = null;
    for (const [task, , begin, handoff, , end] of data.path) {
      const y = this.y(this.row[task]) + this.rowHeight / 2;
      if (before && end >= this.from && begin <= this.to) {
        c.moveTo(this.x(begin), before);
        c.lineTo(this.x(begin + handoff), y);
        c.lineTo(this.x(end), y);
      }
      before = y;
    }
    c.stroke();
  }

  // ---- what is under the mouse ----

  taskAt(x, y) {
    const row = Math.floor((y - ROWS_TOP) / this.rowHeight);
    if (x < GUTTER || row < 0 || row >= data.rows) return -1;
    const time = this.time(x), end = this.firstOfRow[row + 1];
    const i = Page.search(this.firstOfRow[row], end, (k) => this.computed[k] >= time);
    return i < end && this.turned[i] <= time ? i : -1;
  }
  describe(x, y) {
    if (x < GUTTER || y < AXIS) return null;
    const time = this.time(x);
    const bin = Math.min(data.bins - 1, Math.max(0, Math.floor(time / data.end * data.bins)));
    if (y < AXIS + PATH + GAP) {
      const link = data.path.find((each) => each[2] <= time && time <= each[5]);
      return link ? this.describeTask(link[0]) : null;
    }
    if (y < AXIS + PATH + SHARE + 2 * GAP) {
      const cells = CAUSES.map((cause) =>
        `<tr><td>${CAUSE_TEXT[cause]}</td><td>${number(100 * this["share_" + cause][bin])} %</td></tr>`);
      return `<b>workers at ${micro(time)}</b><table>${cells.join("")}</table>`;
    }
    if (y < ROWS_TOP - GAP / 2)
      return `<b>weights at ${micro(time)}</b><br>${number(this.in_flight[bin] / 1e6, 3)} MB in flight, ` +
        `${number(this.rate[bin], 0)} GB/s landing`;
    const task = this.taskAt(x, y);
    return task < 0 ? null : this.describeTask(task);
  }
  describeTask(i) {
    const family = data.families[this.family[i]];
    const link = this.linkOf.get(i);
    const lines = [`<b>${escaped(family.name)}[${this.index[i]}]</b>` +
      (link === undefined ? "" : " on the critical path")];
    const steps = data.steps > 1 ? `, step ${this.step[i]}` : "";
    lines.push(`${escaped(family.kind)} · ${data.worker_name} ${this.row[i]}${steps} · ` +
      escaped(data.operators[family.operator]));
    if (family.line) lines.push(`<code>${escaped(family.line)}\n${escaped(family.text)}</code>`);
    const event = this.event[i] >= 0 ? " " + escaped(data.events[this.event[i]]) : "";
    const times = [this.turned[i], this.ready[i], this.data[i], this.weights[i], this.computed[i],
      this.done[i]];
    const cells = [[CAUSE_TEXT.event + event, 0], [CAUSE_TEXT.data, 1], [CAUSE_TEXT.weights, 2],
      [CAUSE_TEXT.compute, 3], ["storing", 4]]
      .filter(([, k]) => times[k + 1] > times[k])
      .map(([text, k]) => `<tr><td>${text}</td><td>${micro(times[k + 1] - times[k])}</td></tr>`);
    cells.push(`<tr><td>from, to</td><td>${micro(times[1])} – ${micro(times[5])}</td></tr>`);
    if (data.has_plan)
      cells.push(`<tr><td>planned</td><td>${micro(this.plan_start[i])} – ` +
        `${micro(this.plan_end[i])}</td></tr>`);
    if (link !== undefined) {
      const [, cause, begin, handoff] = data.path[link];
      const why = { data: "data", event: "its event", worker: "the task before it" }[cause];
      cells.push(`<tr><td>path: went on after ${why}, hand-off</td><td>${micro(handoff)}</td></tr>`);
    }
    return lines.join("<br>") + `<table>${cells.join("")}</table>`;
  }
  hover(x, y) {
    const text = this.describe(x, y);
    this.tip.hidden = !text;
    if (!text) return;
    this.tip.innerHTML = text;
    const left = Math.min(x + 14, this.width - this.tip.offsetWidth - 8);
    const under = y + 18 + this.tip.offsetHeight < this.height;
    this.tip.style.left = Math.max(0, left) + "px";
    this.tip.style.top = (under ? y + 18 : Math.max(0, y - this.tip.offsetHeight - 10)) + "px";
  }
  // Where a task is drawn, on the page, after the view was moved to it.
  show(task) {
    const length = Math.max(200, this.computed[task] - this.turned[task]);
    this.look(this.turned[task] - 4 * length, this.computed[task] + 4 * length);
    const box = this.canvas.getBoundingClientRect();
    return {
      x: box.left + (this.x(this.turned[task]) + this.x(this.computed[task])) / 2,
      y: box.top + this.y(this.row[task]) + this.rowHeight / 2,
    };
  }

  // ---- moving ----

  look(from, to) {
    const length = Math.min(Math.max(to - from, 100), data.end);
    this.from = Math.min(Math.max(0, from), data.end - length);
    this.to = this.from + length;
    this.redraw();
  }
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }
  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [x] = this.place(event), centre = this.time(Math.max(x, GUTTER));
      const factor = Math.exp(event.deltaY * .0015);
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        const by = (event.deltaX || event.deltaY) / this.width * (this.to - this.from);
        this.look(this.from + by, this.to + by);
      } else {
        this.look(centre - (centre - this.from) * factor, centre + (this.to - centre) * factor);
      }
    }, { passive: false });
    let grip = null;
    canvas.addEventListener("pointerdown", (event) => {
      grip = [this.place(event)[0], this.from, this.to];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointerup", () => { grip = null; });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = this.place(event);
      if (grip) {
        const by = (grip[0] - x) / (this.width - GUTTER) * (grip[2] - grip[1]);
        this.look(grip[1] + by, grip[2] + by);
      }
      this.hover(x, y);
    });
    canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    canvas.addEventListener("dblclick", () => this.look(0, data.end));
    document.getElementById("whole").addEventListener("click", () => this.look(0, data.end));
    document.getElementById("filter").addEventListener("input", (event) => {
      this.filter = event.target.value;
      this.redraw();
    });
    document.querySelectorAll("input[name=mode]").forEach((each) =>
      each.addEventListener("change", () => { this.mode = each.value; legend(this); this.redraw(); }));
    for (const [id, key] of [["show-path", "showPath"], ["show-plan", "showPlan"]])
      document.getElementById(id).addEventListener("change", (event) => {
        this[key] = event.target.checked;
        this.redraw();
      });
    window.addEventListener("resize", () => this.resize());
  }
}

// ---- around the drawing ----

function legend(page) {
  const box = document.getElementById("legend");
  const item = (fill, text) => {
    const span = document.createElement("span");
    span.innerHTML = `<i style="background:${fill}"></i>${escaped(text)}`;
    box.append(span);
    return span;
  };
  box.replaceChildren();
  if (page.mode === "operator")
    data.operators.forEach((name, operator) => {
      const span = item(colour(operator), name);
      span.classList.toggle("off", page.hidden.has(operator));
      span.addEventListener("click", () => {
        if (!page.hidden.delete(operator)) page.hidden.add(operator);
        legend(page);
        page.redraw();
      });
    });
  CAUSES.filter((cause) => page.mode === "cause" || cause === "event" || cause === "data")
    .forEach((cause) => item(CAUSE_COLOUR[cause], CAUSE_TEXT[cause]));
  if (page.mode === "operator") item("#d7e2f8", "light: waiting for weights");
}

function table(caption, head, rows) {
  const cells = (tag, row) => `<tr>${row.map((x) => `<${tag}>${escaped(x)}</${tag}>`).join("")}</tr>`;
  const element = document.createElement("table");
  element.innerHTML = `<caption>${escaped(caption)}</caption>` + cells("th", head) +
    rows.map((row) => cells("td", row)).join("");
  document.getElementById("tables").append(element);
}

function tables() {
  const s = data.summary, path = s.critical_path, spent = s.workers_spend;
  const percent = (share) => number(100 * share) + " %";
  table("What workers do", ["", "share"], [
    ...CAUSES.map((cause) => [CAUSE_TEXT[cause], percent(spent[cause])]),
    ["done", percent(spent.idle)]]);
  if (s.weights.stages)
    table("Weights", ["", ""], [
      ["landed", number(s.weights.bytes / 1e6) + " MB"], ["rate", number(s.weights.gb_s) + " GB/s"],
      ["loaders " + CAUSE_TEXT.slot, percent(s.weights.loaders_wait_for_slots)],
      ["loaders hold back", percent(s.weights.loaders_hold_back)]]);
  const head = ["operator", "tasks", "stage us", ...CAUSES.map((cause) => cause + " us"), "path us",
    "hand-off", "weights"];
  const planned = s.plan ? s.plan.operators : null;
  if (planned) head.push("adds us", "planned");
  table("Operators: median stage; what all workers spend in a step; on the critical path", head,
    data.operators.map((name) => {
      const each = s.operators[name], link = path[name];
      const row = [name, each.tasks, number(each.stage_us, 2),
        ...CAUSES.map((cause) => number(each.workers_us[cause])),
        ...(link ? [link.us, link.handoff_us, link.weights_us].map((x) => number(x)) : ["", "", ""])];
      if (planned) row.push(number(planned[name].measured_us), number(planned[name].simulated_us));
      return row;
    }));
}

function facts() {
  const s = data.summary;
  const parts = [`${s.device}, ${s.workers} workers, ${number(s.tasks, 0)} tasks`,
    `position ${s.position}` + (s.steps > 1 ? `, ${s.steps} steps` : ""),
    `${number(s.traced_us, 2)} us a step here, ${number(s.launch_step_us, 2)} in the launch`];
  if (s.untraced_step_us)
    parts.push(`${number(s.untraced_step_us, 2)} untraced ` +
      `(${number(100 * (s.launch_step_us / s.untraced_step_us - 1), 2)} % more with marks)`);
  if (s.plan) parts.push(`planned ${number(s.plan.simulated_us, 2)} us`);
  document.getElementById("facts").textContent = parts.join(" · ");
  document.getElementById("plan-choice").hidden = !data.has_plan;
}

(async () => {
  const columns = {}, series = {};
  for (const [name, text] of Object.entries(data.columns)) columns[name] = await unpacked(text, Int32Array);
  for (const [name, text] of Object.entries(data.series)) series[name] = await unpacked(text, Float32Array);
  window.page = new Page(columns, series);
  facts();
  legend(window.page);
  tables();
  document.body.dataset.ready = "yes";
})();
