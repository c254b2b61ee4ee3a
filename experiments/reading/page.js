"use strict";
// One reader at one browser: answers are kept in localStorage and leave as a file.
(() => {
  const page = window.ceusPage;
  const cases = new Map(window.ceusCases.map((each) => [each.patient, each]));
  const at = (id) => document.getElementById(id);
  const PASSES = ["without", "with"];
  const NAMES = { without: "pass 1, without the models", with: "pass 2, with the models" };
  const SPEEDS = [0.1, 0.25, 0.5, 1, 1.5, 2, 4];
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = ["#f0a35e", "#6cb2f0"];
  const clip = at("clip");
  const map = at("map");
  const prefix = `ceus reader ${page.predictions_sha.slice(0, 16)} ${page.part} ${page.patients} ${page.seed} `;

  const trouble = (text) => {
    at("trouble").textContent = text;
    at("trouble").hidden = !text;
  };

  // ---- what is kept
  let state = null; // { reader, pass, answers: [..], seconds: { pass: { patient: s } } }
  const keep = () => {
    try {
      localStorage.setItem(prefix + state.reader, JSON.stringify(state));
    } catch {
      trouble("This browser keeps nothing (private window, or storage is full or switched off): download your answers before you close it.");
    }
  };
  const kept = () => {
    try {
      return Object.keys(localStorage).filter((key) => key.startsWith(prefix)).map((key) => JSON.parse(localStorage.getItem(key)));
    } catch {
      return [];
    }
  };
  const answerOf = (patient) => state.answers.find((each) => each.pass === state.pass && each.patient === patient);

  // ---- the order: by chance, another for each reader and pass, the same whenever the page is opened
  const random = (text) => {
    let a = 2166136261;
    for (const byte of new TextEncoder().encode(text)) a = Math.imul(a ^ byte, 16777619);
    return () => { // mulberry32
      a = (a + 0x6d2b79f5) | 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  };
  const ordered = () => {
    const next = random(`${page.seed} ${state.reader} ${state.pass}`);
    const names = [...cases.keys()];
    for (let last = names.length - 1; last > 0; last--) {
      const other = Math.floor(next() * (last + 1));
      [names[last], names[other]] = [names[other], names[last]];
    }
    return names;
  };

  // ---- one patient
  let order = [];
  let number = 0;
  let imageAt = 0;
  let clipAt = 0;
  let confidence = null;
  let typing = false; // whether a further digit belongs to the number
  let asked = false;
  let since = null; // when the patient came into sight
  let frame = 0;
  const patient = () => order[number];
  const shownClip = () => cases.get(patient()).clips[clipAt];

  const count = () => { // seconds in sight, of the patient shown
    if (since !== null) {
      const own = state.seconds[state.pass];
      own[patient()] = (own[patient()] ?? 0) + (performance.now() - since) / 1000;
    }
    since = document.hidden || at("reading").hidden ? null : performance.now();
  };

  const screen = (name) => {
    for (const each of ["start", "between", "reading"]) at(each).hidden = each !== name;
    at("save").hidden = name === "start";
  };

  const show = (to) => {
    if (since !== null) count();
    number = to;
    imageAt = clipAt = 0;
    const given = answerOf(patient());
    asked = state.pass === "with" && given !== undefined;
    screen("reading");
    since = document.hidden ? null : performance.now();
    const done = state.answers.filter((each) => each.pass === state.pass).length;
    at("where").textContent = `patient ${number + 1} of ${order.length} · ${NAMES[state.pass]} · ${done} answered`;
    set(given ? given.confidence : null);
    at("hint").textContent = given ? "You answered this one; a new number replaces it." : "";
    showPictures();
    showModel();
    keep();
  };

  const showPictures = () => {
    const { images, clips } = cases.get(patient());
    at("still").hidden = !images.length;
    at("moving").hidden = at("player").hidden = !clips.length;
    at("still").classList.toggle("alone", !clips.length);
    at("moving").classList.toggle("alone", !images.length);
    if (images.length) {
      at("image").src = images[imageAt];
      at("image-name").textContent = "ultrasound" + (images.length > 1 ? `, image ${imageAt + 1} of ${images.length} (I)` : "");
    }
    if (clips.length) {
      clip.src = clips[clipAt].file;
      clip.playbackRate = clip.defaultPlaybackRate = SPEEDS[at("speed").selectedIndex];
      at("clip-name").textContent = "contrast clip" + (clips.length > 1 ? `, ${clipAt + 1} of ${clips.length} (C)` : "");
      drawCurve();
      clip.play().catch(() => {}); // a browser may want a key first
    } else {
      clip.removeAttribute("src");
      clip.load();
    }
  };

  // ---- the clip
  const middle = (n) => { // of a frame's time: a seek to its start may show the one before
    const { seconds } = shownClip();
    const gap = seconds.length > 1 ? seconds[1] - seconds[0] : 1;
    return seconds[n] + ((seconds[n + 1] ?? seconds[n] + gap) - seconds[n]) / 2;
  };
  const frameAt = (second) => {
    const { seconds } = shownClip();
    let n = 0;
    while (n + 1 < seconds.length && seconds[n + 1] <= second + 1e-4) n++;
    return n;
  };
  const seek = (n) => {
    const last = shownClip().seconds.length - 1;
    frame = Math.min(Math.max(n, 0), last);
    clip.currentTime = middle(frame);
  };
  const step = (frames) => {
    clip.pause();
    seek(frame + frames);
  };
  const toggle = () => (clip.paused ? clip.play() : clip.pause());
  const faster = (by) => {
    const to = Math.min(Math.max(at("speed").selectedIndex + by, 0), SPEEDS.length - 1);
    at("speed").selectedIndex = to;
    clip.playbackRate = clip.defaultPlaybackRate = SPEEDS[to];
  };

  const tick = () => {
    if (!at("reading").hidden && !at("moving").hidden && shownClip()) {
      if (!clip.seeking) frame = frameAt(clip.currentTime);
      const { seconds } = shownClip();
      at("time").textContent = `${seconds[frame].toFixed(1)} of ${seconds[seconds.length - 1].toFixed(1)} s · frame ${frame + 1} of ${seconds.length}`;
      at("play").textContent = clip.paused ? "Play" : "Stop";
      moveCursor();
      follow();
    }
    requestAnimationFrame(tick);
  };

  // ---- the time-intensity curve
  const EDGE = { left: 38, right: 8, top: 16, bottom: 20 };
  const element = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  let scale = null;
  const drawCurve = () => {
    const svg = at("curve");
    const { seconds, curves } = shownClip();
    const width = svg.clientWidth || 600;
    const height = svg.clientHeight || 140;
    svg.replaceChildren();
    const everything = Object.values(curves).flatMap((each) => each.seen).filter((value) => value !== null);
    const top = Math.max(1, ...everything) * 1.05;
    const end = Math.max(seconds[seconds.length - 1], 1e-3);
    scale = {
      x: (s) => EDGE.left + (s / end) * (width - EDGE.left - EDGE.right),
      back: (x) => ((x - EDGE.left) / (width - EDGE.left - EDGE.right)) * end,
      y: (v) => height - EDGE.bottom - (v / top) * (height - EDGE.top - EDGE.bottom),
    };
    for (const share of [0, 0.5, 1]) {
      const value = share * top / 1.05;
      svg.append(element("line", { class: "axis", x1: EDGE.left, x2: width - EDGE.right, y1: scale.y(value), y2: scale.y(value) }));
      svg.append(element("text", { x: EDGE.left - 5, y: scale.y(value) + 4, "text-anchor": "end" }, Math.round(value)));
    }
    const every = [0.5, 1, 2, 5, 10, 20, 30, 60].find((each) => end / each <= 9) ?? 120;
    for (let s = 0; s <= end; s += every)
      svg.append(element("text", { x: scale.x(s), y: height - 5, "text-anchor": "middle" }, `${s} s`));
    Object.entries(curves).forEach(([name, { seen, fitted }], which) => {
      const colour = Object.keys(curves).length > 1 ? COLOURS[which % 2] : "#cfd4d8";
      seen.forEach((value, n) => {
        if (value !== null) svg.append(element("circle", { cx: scale.x(seconds[n]), cy: scale.y(value), r: 1.3, fill: colour, opacity: 0.7 }));
      });
      const points = fitted.map((value, n) => `${scale.x(seconds[n])},${scale.y(value)}`).join(" ");
      if (points) svg.append(element("polyline", { points, fill: "none", stroke: colour, "stroke-width": 1.2, opacity: 0.8 }));
      svg.append(element("text", { x: EDGE.left + 90 * which, y: 11, style: `fill: ${colour}` }, `${name === "field" ? "whole field" : name}`));
    });
    svg.append(element("text", { x: width - EDGE.right, y: 11, "text-anchor": "end" }, "mean grey level; line: fitted bolus"));
    svg.append(element("line", { class: "cursor", id: "cursor", y1: EDGE.top, y2: height - EDGE.bottom }));
  };
  const moveCursor = () => {
    const cursor = at("cursor");
    const x = scale.x(shownClip().seconds[frame]);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
  };

  // ---- what the models say: not even loaded before the second pass
  const load = () =>
    new Promise((done, failed) => {
      if (window.ceusModel) return done();
      const script = document.createElement("script");
      script.src = "model.js";
      script.onload = done;
      script.onerror = () => failed(new Error("model.js"));
      document.body.append(script);
    });

  const cell = (kind, text) => {
    const made = document.createElement(kind);
    made.textContent = text;
    return made;
  };
  const row = (cells) => {
    const made = document.createElement("tr");
    made.append(...cells);
    return made;
  };
  const showModel = () => {
    at("model").hidden = state.pass !== "with";
    at("ask").hidden = asked;
    at("said").hidden = !asked;
    at("cells").replaceChildren();
    at("whose").replaceChildren();
    at("shown").checked = false;
    if (asked) {
      const { cells, probabilities, maps } = window.ceusModel;
      const modalities = [...new Set(cells.map(([, modality]) => modality))];
      const own = probabilities[patient()];
      at("cells").append(row([cell("th", ""), ...modalities.map((name) => cell("th", name === "video" ? "clip" : name === "combined" ? "both" : name))]));
      for (const architecture of new Set(cells.map(([name]) => name))) {
        const figures = modalities.map((modality) => {
          const value = own[cells.findIndex(([a, m]) => a === architecture && m === modality)] ?? null;
          const made = cell("td", value === null ? "–" : `${Math.round(100 * value)} %`);
          if (value !== null) made.style.setProperty("--p", value);
          return made;
        });
        at("cells").append(row([cell("th", architecture), ...figures]));
      }
      const models = [...new Set(maps[patient()].filter((each) => each.clip === clipAt).map((each) => each.model))];
      at("whose").append(...models.map((name) => new Option(name.replace(/-[0-9a-f]+$/, ""), name)));
      at("overlays").hidden = at("overlay-note").hidden = !models.length;
      at("whose").hidden = models.length < 2;
    }
    rate();
  };
  const ask = () => {
    if (state.pass !== "with" || asked) return;
    asked = true;
    showModel();
  };

  const follow = () => { // the overlay keeps the clip's time
    const wanted = at("shown").checked && at("whose").value;
    const second = shownClip().seconds[frame];
    const found = wanted && window.ceusModel.maps[patient()].find(
      (each) => each.model === wanted && each.clip === clipAt && each.from - 1e-3 <= second && second <= each.to + 1e-3);
    at("over").hidden = !found || map.readyState < 2 || !map.src.endsWith(found.file);
    if (!wanted) return;
    at("overlay-note").textContent = found ? "Colour: what speaks for the class that this model leans to." : "The model did not look at this part of the clip.";
    if (!found) return;
    if (!map.src.endsWith(found.file)) map.src = found.file;
    const to = second - found.from + 0.01;
    map.playbackRate = clip.playbackRate;
    if (clip.paused) map.pause();
    else if (map.paused) map.play().catch(() => {});
    if (!map.seeking && Math.abs(map.currentTime - to) > (clip.paused ? 0.02 : 0.2)) map.currentTime = to;
  };

  // ---- the answer
  const rate = () => {
    const may = state.pass === "without" || asked;
    at("slider").disabled = !may;
    at("answer").disabled = !may || confidence === null;
    at("confidence").textContent = confidence === null ? "–" : String(confidence);
    at("slider").value = confidence ?? 50;
    at("slider").classList.toggle("unset", confidence === null);
    if (!may) at("hint").textContent = "First let the models speak (M), then answer.";
    else if (at("hint").textContent.startsWith("First")) at("hint").textContent = "";
  };
  const set = (value) => {
    confidence = value;
    typing = false;
    rate();
  };
  const type = (digit) => {
    if (at("slider").disabled) return;
    const joined = typing ? 10 * (confidence ?? 0) + digit : digit;
    set(joined > 100 ? digit : joined);
    typing = true;
  };
  const rub = () => {
    if (at("slider").disabled || confidence === null) return;
    set(confidence > 9 ? Math.floor(confidence / 10) : null);
    typing = true;
  };

  const save = () => {
    if (at("answer").disabled) return;
    count();
    state.answers = state.answers.filter((each) => !(each.pass === state.pass && each.patient === patient()));
    state.answers.push({
      patient: patient(), pass: state.pass, confidence, position: number + 1,
      seconds: Math.round(10 * state.seconds[state.pass][patient()]) / 10, answered: new Date().toISOString(),
    });
    keep();
    const open = order.findIndex((name, n) => n > number && !answerOf(name));
    const next = open >= 0 ? open : order.findIndex((name) => !answerOf(name));
    if (next >= 0) show(next);
    else pause();
  };

  const pause = () => { // a pass is complete
    clip.pause();
    count();
    screen("between");
    since = null;
    keep();
    const first = state.pass === "without";
    at("where").textContent = `${NAMES[state.pass]}: complete`;
    at("done").textContent = first ? "The first pass is complete." : "Both passes are complete. Thank you.";
    at("next").textContent = first
      ? "In the second pass the same patients come in another order, and the models' probabilities are shown when you ask. Once it begins, the answers of the first pass are final. A pause of some weeks between them keeps memory out of it; the page remembers where you are."
      : "Download your answers and give the file to whoever runs the study.";
    at("go").textContent = first ? "Begin the second pass" : "Download answers";
  };

  const enter = async (pass) => {
    state.pass = pass;
    if (pass === "with") {
      try {
        await load();
      } catch {
        trouble("model.js must be beside this page, got none. Copy the whole folder again.");
        state.pass = "without";
        return;
      }
    }
    order = ordered();
    const open = order.findIndex((name) => !answerOf(name));
    if (open >= 0) show(open);
    else pause();
  };

  const begin = (reader) => {
    const known = kept().find((each) => each.reader === reader);
    state = known ?? { reader, pass: "without", answers: [], seconds: { without: {}, with: {} } };
    at("who").textContent = `reader ${reader}`;
    return enter(state.pass);
  };

  const download = () => {
    count();
    keep();
    const { question, ...facts } = page;
    const content = { page: facts, reader: state.reader, downloaded: new Date().toISOString(), patients: [...cases.keys()], answers: state.answers };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    link.download = `answers-${state.reader.replace(/[^\w-]+/g, "_")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  // ---- keys and buttons
  const other = (what) => {
    const { images, clips } = cases.get(patient());
    if (what === "image" && images.length > 1) imageAt = (imageAt + 1) % images.length;
    else if (what === "clip" && clips.length > 1) clipAt = (clipAt + 1) % clips.length;
    else return;
    showPictures();
    showModel();
  };
  const go = (by) => {
    const to = number + by;
    if (to >= 0 && to < order.length) show(to);
  };
  const KEYS = {
    " ": toggle, Enter: save, ArrowUp: () => faster(1), ArrowDown: () => faster(-1), PageUp: () => go(-1), PageDown: () => go(1),
    i: () => other("image"), c: () => other("clip"), m: ask, o: () => { at("shown").checked = asked && at("whose").value !== "" && !at("shown").checked; },
  };
  document.addEventListener("keydown", (event) => {
    if (at("reading").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const { key, shiftKey, target } = event;
    if (target.matches("button, select, #shown") && /^(Enter| |Arrow.*)$/.test(key)) return; // who walks by Tab
    const hasClip = !at("moving").hidden;
    if (/^[0-9]$/.test(key)) type(Number(key));
    else if (key === "Backspace") rub();
    else if ((key === "ArrowLeft" || key === "ArrowRight") && hasClip) {
      const { seconds } = shownClip();
      const fps = seconds.length > 1 ? 1 / (seconds[1] - seconds[0]) : 1;
      step((key === "ArrowLeft" ? -1 : 1) * (shiftKey ? Math.max(1, Math.round(fps)) : 1));
    } else {
      const act = KEYS[key.length === 1 ? key.toLowerCase() : key];
      if (!act || (event.repeat && key !== "ArrowUp" && key !== "ArrowDown")) {
        if (act) event.preventDefault();
        return;
      }
      if ([" ", "ArrowUp", "ArrowDown"].includes(key) && !hasClip) return;
      act();
    }
    event.preventDefault();
  });

  const press = (id, act) => at(id).addEventListener("click", (event) => {
    event.currentTarget.blur(); // keys are the page's
    act();
  });
  press("play", toggle);
  press("earlier", () => step(-1));
  press("later", () => step(1));
  press("answer", save);
  press("ask", ask);
  press("previous", () => go(-1));
  press("following", () => go(1));
  press("save", download);
  press("back", () => show(0));
  press("go", () => (state.pass === "without" ? enter("with") : download()));
  at("slider").addEventListener("input", () => set(Number(at("slider").value)));
  at("slider").addEventListener("change", () => at("slider").blur());
  at("speed").append(...SPEEDS.map((each) => new Option(`${each} ×`, each, each === 1, each === 1)));
  for (const id of ["speed", "whose"]) at(id).addEventListener("change", () => at(id).blur());
  at("speed").addEventListener("change", () => faster(0));
  at("curve").addEventListener("click", (event) => {
    clip.pause();
    seek(frameAt(scale.back(event.clientX - at("curve").getBoundingClientRect().left)));
  });
  clip.addEventListener("error", () => {
    if (clip.hasAttribute("src")) trouble("This browser cannot play the clip (H.264 in MP4), or its file is missing. Use Chrome, Edge, Firefox or Safari, and copy the whole folder.");
  });
  at("image").addEventListener("error", () => trouble("An image of this patient is missing. Copy the whole folder again."));
  addEventListener("resize", () => { if (!at("reading").hidden && !at("moving").hidden) drawCurve(); });
  document.addEventListener("visibilitychange", () => { if (state && !at("reading").hidden) { count(); keep(); } });
  addEventListener("pagehide", () => { if (state && !at("reading").hidden) { count(); keep(); } });

  // ---- the first screen
  at("sweep").textContent = page.sweep;
  document.title = `${page.sweep}: reading`;
  at("title").textContent = page.question.title;
  at("task").textContent =
    `${page.patients} patients, read twice: first without, then with the models. For each say how sure you are of “${page.question.positive}”, ` +
    "from 0 (surely not) to 100 (surely). Your answers stay in this browser until you download them.";
  at("asks").textContent = `How sure are you of “${page.question.positive}”?`;
  at("low").textContent = `0: surely ${page.question.negative}`;
  at("high").textContent = `100: surely ${page.question.positive}`;
  at("meaning").textContent =
    `Probability of “${page.question.positive}” by each model, ` +
    (page.part === "oof" ? "none of which was trained on this patient." : "of patients held out from training.");
  at("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = at("reader").value.trim();
    if (name) begin(name);
  });
  const before = kept();
  at("known").hidden = !before.length;
  at("known").append("Go on as ", ...before.map((each) => {
    const button = cell("button", `${each.reader} (${each.answers.length} answers)`);
    button.type = "button";
    button.addEventListener("click", () => begin(each.reader));
    return button;
  }));
  screen("start");
  at("reader").focus();
  requestAnimationFrame(tick);
})();
