// Draws what the page's data says: a moment, the timeline of its clip, and the nearest moments.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const timeline = byId("timeline"), chart = timeline.firstElementChild;
const ROW = 16, GAP = 2, CURVE = 44, SPACE = 14, LABELS = 58; // pixels of the timeline
const SHORT = 0.4; // seconds that a moment lasts where the next one is far

let clip = 0, moment = 0, playing = false, startedAt = 0, startedFrom = 0;
let picked = null; // [position, code] to look for

const firsts = []; // index of each clip's first moment, through all clips
data.clips.reduce((count, each) => (firsts.push(count), count + each.frames.length), 0);
const clipOf = (index) => firsts.findLastIndex((first) => first <= index);

const images = new Map();
function picture(clip, index) { // decoded when first shown
  const key = `${clip} ${index}`;
  if (!images.has(key)) {
    const image = new Image();
    image.src = `data:image/webp;base64,${data.clips[clip].pictures[index]}`;
    images.set(key, image);
    if (images.size > 400) images.delete(images.keys().next().value);
  }
  return images.get(key);
}

function paint(canvas, clip, index) {
  const image = picture(clip, index);
  canvas.wanted = image; // a picture that arrives after the next one was asked for is not drawn
  const draw = () => {
    if (canvas.wanted !== image) return;
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
  };
  if (image.complete) draw();
  else image.addEventListener("load", draw, { once: true });
}

// Successive codes differ in hue by the golden angle; three lightnesses tell apart what has nearly one hue.
const colour = (code) => `oklch(${[0.74, 0.84, 0.66][code % 3]} 0.125 ${(code * 137.508) % 360})`;
const time = (seconds) => `${seconds.toFixed(2)} s`;
const figure = (value, digits) => (value === null ? "–" : value.toFixed(digits));

function showMoment() {
  const each = data.clips[clip];
  paint(byId("now"), clip, each.now[moment]);
  paint(byId("future"), clip, each.future[moment]);
  byId("now-label").textContent = `${each.frames[moment]}, ${time(each.times[moment])}`;
  byId("future-label").textContent = `${each.futures[moment]}, ${time(each.futureTimes[moment])}`;
  byId("motion").textContent = figure(each.motions[moment], 3);
  byId("margin").textContent = figure(each.margins[moment], 3);
  byId("clock").textContent = `moment ${moment + 1} of ${each.frames.length}`;
  timeline.setAttribute("aria-valuenow", moment);
  timeline.setAttribute("aria-valuetext", time(each.times[moment]));
  showCodes(each.codes[moment]);
  drawTimeline();
  if (!playing) showNearest();
}

function showCodes(codes) {
  [...byId("codes").children].forEach((item, position) => {
    const button = item.firstElementChild, code = codes[position];
    button.style.background = colour(code);
    button.firstChild.textContent = code;
    button.setAttribute("aria-pressed", picked !== null && picked[0] === position && picked[1] === code);
  });
}

function showNearest() {
  const own = data.clips[clip].codes[moment];
  const cards = data.nearest[firsts[clip] + moment].map(([index, equal]) => card(index, equal, own));
  if (!cards.length) {
    const text = document.createElement("p");
    text.className = "absent";
    text.textContent = "No other moment of this page has a code in common with this one.";
    cards.push(text);
  }
  byId("nearest").replaceChildren(...cards);
}

function card(index, equal, own) {
  const of = clipOf(index), there = index - firsts[of], each = data.clips[of];
  const button = document.createElement("button"), flip = document.createElement("span");
  button.type = "button";
  button.className = "card";
  flip.className = "flip";
  for (const side of ["now", "future"]) paint(flip.appendChild(document.createElement("canvas")), of, each[side][there]);
  const marks = document.createElement("span");
  marks.className = "marks";
  each.codes[there].forEach((code, position) => {
    const mark = marks.appendChild(document.createElement("i"));
    if (code === own[position]) mark.style.background = colour(code);
  });
  const title = document.createElement("b"), where = document.createElement("small");
  title.textContent = `${equal} of ${data.positions} codes equal`;
  where.textContent = `${time(each.times[there])} · ${each.name}`;
  where.title = each.name;
  button.append(flip, marks, title, where);
  button.addEventListener("click", () => { pause(); goTo(of, there); byId("clip").scrollIntoView({ block: "nearest" }); });
  return button;
}

const ends = (each) => [each.times[0], each.times.at(-1) + lasts(each, each.times.length - 1)];
const lasts = (each, index) => // seconds until the next moment
  index + 1 < each.times.length ? Math.min(each.times[index + 1] - each.times[index], Math.max(SHORT, typical(each)))
    : typical(each);
const typical = (each) => (each.times.length < 2 ? 1 : (each.times.at(-1) - each.times[0]) / (each.times.length - 1));

let drawn = ""; // what the chart without its playhead shows
const still = document.createElement("canvas");

function drawTimeline() {
  const each = data.clips[clip], width = timeline.clientWidth, rows = data.positions * (ROW + GAP);
  const height = rows + 2 * (CURVE + SPACE) + 18, scale = window.devicePixelRatio || 1;
  const style = getComputedStyle(document.documentElement), ink = (name) => style.getPropertyValue(name);
  const [first, last] = ends(each);
  const x = (seconds) => LABELS + ((seconds - first) / (last - first)) * (width - LABELS - 1);
  const wanted = [clip, width, scale, picked, ink("--ink")].join(" ");
  if (drawn !== wanted) {
    drawn = wanted;
    drawStill(sized(still, width, height, scale), each, rows, height, x, ink);
  }
  chart.style.height = `${height}px`;
  const pen = sized(chart, width, height, scale), middle = x(each.times[moment]) + 1;
  pen.drawImage(still, 0, 0, still.width / scale, still.height / scale);
  pen.fillStyle = ink("--head");
  pen.fillRect(middle - 1, 0, 2, height - 18);
}

function sized(canvas, width, height, scale) {
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  return pen;
}

function drawStill(pen, each, rows, height, x, ink) {
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  drawCodes(pen, each, x, ink);
  drawCurve(pen, each, each.motions, "motion", rows + SPACE, x, ink("--blue"), ink);
  drawCurve(pen, each, each.margins, "margin", rows + 2 * SPACE + CURVE, x, ink("--orange"), ink);
  drawAxis(pen, ...ends(each), height - 8, x, ink("--soft"));
}

function drawCodes(pen, each, x, ink) {
  for (let position = 0; position < data.positions; position++) {
    const top = position * (ROW + GAP);
    pen.fillStyle = ink("--soft");
    pen.fillText(position === 0 ? "position 0" : position, 0, top + ROW / 2 + 0.5);
    pen.fillStyle = ink("--well");
    pen.fillRect(LABELS, top, x(ends(each)[1]) - LABELS, ROW);
    each.codes.forEach((codes, index) => {
      const idle = each.motions[index] !== null && each.motions[index] < data.idle;
      const hidden = picked !== null && (picked[0] !== position || picked[1] !== codes[position]);
      pen.globalAlpha = hidden ? 0.12 : idle ? 0.35 : 1;
      pen.fillStyle = colour(codes[position]);
      // Whole pixels, or neighbours would show seams; a line between moments where they are wide.
      const left = Math.round(x(each.times[index])), right = Math.round(x(each.times[index] + lasts(each, index)));
      pen.fillRect(left, top, Math.max(right - left - (right - left > 5 ? 1 : 0), 1), ROW);
    });
    pen.globalAlpha = 1;
  }
}

function drawCurve(pen, each, values, label, top, x, line, ink) {
  const most = Math.max(...values.filter((value) => value !== null), 1e-6), bottom = top + CURVE;
  pen.fillStyle = ink("--soft");
  pen.fillText(label, 0, top + 8);
  pen.fillText(most.toPrecision(2), 0, top + 23);
  pen.fillStyle = ink("--line");
  pen.fillRect(LABELS, bottom, x(ends(each)[1]) - LABELS, 1);
  pen.beginPath();
  values.forEach((value, index) => {
    const left = x(each.times[index]), right = x(each.times[index] + lasts(each, index));
    if (value !== null) pen.rect(left, bottom - (value / most) * CURVE, right - left, (value / most) * CURVE);
  });
  pen.fillStyle = line;
  pen.globalAlpha = 0.35;
  pen.fill();
  pen.globalAlpha = 1;
  values.forEach((value, index) => {
    const left = x(each.times[index]), right = x(each.times[index] + lasts(each, index));
    if (value !== null) pen.fillRect(left, bottom - (value / most) * CURVE - 0.75, right - left, 1.5);
  });
}

function drawAxis(pen, first, last, y, x, ink) {
  const wide = (x(last) - x(first)) / 70, step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600].find((each) => (last - first) / each <= wide) || 1800;
  pen.fillStyle = ink;
  for (let tick = Math.ceil(first / step); tick * step < last - step / 4; tick++) {
    pen.fillText(`${+(tick * step).toFixed(1)} s`, x(tick * step), y);
  }
}

function goTo(toClip, toMoment) {
  if (toClip !== clip) {
    clip = toClip;
    byId("clip").value = clip;
    byId("text").textContent = data.clips[clip].text || "";
    timeline.setAttribute("aria-valuemax", data.clips[clip].frames.length - 1);
  }
  moment = Math.max(0, Math.min(toMoment, data.clips[clip].frames.length - 1));
  startedAt = performance.now();
  startedFrom = data.clips[clip].times[moment];
  showMoment();
}

const momentAt = (seconds) => Math.max(0, data.clips[clip].times.findLastIndex((each) => each <= seconds + 1e-6));

function setPlaying(on) {
  playing = on;
  byId("play").textContent = on ? "❚❚ Pause" : "▶ Play";
  if (on) {
    const atEnd = moment === data.clips[clip].frames.length - 1;
    goTo(clip, atEnd ? 0 : moment);
    requestAnimationFrame(step);
  } else showNearest();
}
const pause = () => playing && setPlaying(false);

function step(now) {
  if (!playing) return;
  const each = data.clips[clip], seconds = startedFrom + ((now - startedAt) / 1000) * +byId("speed").value;
  const next = momentAt(seconds);
  if (next !== moment) { moment = next; showMoment(); }
  if (seconds > ends(each)[1]) setPlaying(false);
  else requestAnimationFrame(step);
}

function seek(event) {
  const [first, last] = ends(data.clips[clip]), box = chart.getBoundingClientRect();
  const share = (event.clientX - box.left - LABELS) / (box.width - LABELS);
  pause();
  goTo(clip, momentAt(first + Math.max(0, Math.min(share, 1)) * (last - first)));
}

function onKey(event) {
  const each = data.clips[clip], tag = event.target.tagName;
  if (event.ctrlKey || event.metaKey || event.altKey || tag === "SELECT") return;
  if (event.key === " " && tag !== "BUTTON") setPlaying(!playing);
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    const sign = event.key === "ArrowLeft" ? -1 : 1;
    pause();
    goTo(clip, event.shiftKey ? momentAt(each.times[moment] + sign) : moment + sign);
  } else if (event.key === "Home" || event.key === "End") {
    pause();
    goTo(clip, event.key === "Home" ? 0 : each.frames.length - 1);
  } else return;
  event.preventDefault();
}

for (let position = 0; position < data.positions; position++) {
  const button = byId("codes").appendChild(document.createElement("li")).appendChild(document.createElement("button"));
  button.type = "button";
  button.append("", Object.assign(document.createElement("small"), { textContent: `position ${position}` }));
  button.addEventListener("click", () => {
    const code = data.clips[clip].codes[moment][position], same = picked && picked[0] === position && picked[1] === code;
    picked = same ? null : [position, code];
    showMoment();
  });
}
byId("play").addEventListener("click", () => setPlaying(!playing));
byId("back").addEventListener("click", () => { pause(); goTo(clip, moment - 1); });
byId("forth").addEventListener("click", () => { pause(); goTo(clip, moment + 1); });
byId("clip").addEventListener("change", (event) => { pause(); goTo(+event.target.value, 0); });
byId("speed").addEventListener("change", () => goTo(clip, moment));
timeline.addEventListener("pointerdown", (event) => { timeline.setPointerCapture(event.pointerId); seek(event); });
timeline.addEventListener("pointermove", (event) => event.buttons && seek(event));
document.addEventListener("keydown", onKey);
window.addEventListener("resize", drawTimeline);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTimeline);
clip = -1;
goTo(0, 0);
setPlaying(false);
