// The explorer page: the numbers of window.explorerData, drawn by Vega-Lite, told in sentences and shown as tables.
// Every number is shown with the digits it comes with, so that it is the one that the chapters print.
(() => {
  "use strict";
  const data = window.explorerData;
  const root = document.getElementById("explorer-tool");
  if (!root || !data || !data.grids.length) return;
  const find = name => document.getElementById(`explorer-${name}`);
  const [setups, losses, modes, slider, target] = ["setup", "losses", "modes", "k", "target"].map(find);
  const chart = find("chart");

  const TABLE_KS = [1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50, 70, 100];
  const DASHES = [[1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [13, 4]];
  const SMALLEST_ERROR = 0.5; // percent; the axis of accuracies is logarithmic in the error and ends here
  const SPEAK_AFTER = 250; // milliseconds: a moving slider is not read out at every step

  // Text

  const digits = { accuracy: 1, candidates: 1, difference: 2, more_candidates: 1 };
  const isDifference = name => name === "difference" || name === "more_candidates";
  const number = (name, value) => {
    const sign = !isDifference(name) || value === 0 ? "" : value > 0 ? "+" : "\u2212";
    return sign + Math.abs(value).toFixed(digits[name]);
  };
  const numbers = (loss, name, place) => loss[name].map(row => number(name, row[place]));
  const inTable = (loss, name, place) => {
    if (!loss[name]) return "\u2013";
    const [estimate, low, high] = numbers(loss, name, place);
    return `${estimate} [${low},\u00a0${high}]`; // breaks before the interval, not in it
  };
  const inSentence = (loss, name, place, unit) => {
    const [estimate, low, high] = numbers(loss, name, place);
    return `${estimate}${unit} (${low} to ${high})`;
  };
  const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
  const capital = text => text[0].toUpperCase() + text.slice(1);

  // What is chosen

  const gridOf = value => data.grids[value.split("/")[0]];
  const setupOf = value => gridOf(value).setups[value.split("/")[1]];
  const checkedLosses = () => new Set([...losses.querySelectorAll("input:checked")].map(box => box.value));
  const baselineOf = setup => setup.losses.find(loss => loss.name === data.baseline);

  function chosen() {
    const setup = setupOf(setups.value);
    const names = checkedLosses();
    const k = Number(slider.value);
    const mode = modes.querySelector("input:checked").value;
    const own = setup.losses.filter(loss => names.has(loss.name));
    const shown = mode === "difference" ? own.filter(loss => loss.difference) : own;
    return { setup, own, shown, k, mode, target: Number(target.value), baseline: baselineOf(setup) };
  }

  // Controls

  function fillSetups() {
    setups.replaceChildren(...data.grids.map((grid, i) => {
      const group = Object.assign(document.createElement("optgroup"), { label: grid.title });
      group.append(...grid.setups.map((setup, j) => new Option(setup.label, `${i}/${j}`)));
      return group;
    }));
  }

  // Losses that share a colour, where there are more than colours, differ in their dashes.
  function dashOf(setup, loss) {
    const colours = setup.losses.map(other => other.colour);
    const before = colours.slice(0, setup.losses.indexOf(loss)).filter(colour => colour === loss.colour);
    return DASHES[([...new Set(colours)].indexOf(loss.colour) + before.length) % DASHES.length];
  }

  function swatch(setup, loss) {
    const line = `stroke="${loss.colour}" stroke-width="3" stroke-dasharray="${dashOf(setup, loss)}"`;
    return `<svg width="28" height="10" aria-hidden="true"><line x2="28" y1="5" y2="5" ${line}/></svg>`;
  }

  function fillLosses() {
    const setup = setupOf(setups.value);
    const before = checkedLosses();
    const kept = setup.losses.some(loss => before.has(loss.name)) ? before
      : new Set(setup.losses.slice(0, 2).map(loss => loss.name));
    losses.replaceChildren(...setup.losses.map(loss => {
      const label = document.createElement("label");
      label.innerHTML = `<input type="checkbox" autocomplete="off"> ${swatch(setup, loss)} `;
      label.append(loss.label);
      const box = label.firstChild;
      box.value = loss.name;
      box.checked = kept.has(loss.name);
      return label;
    }));
    const [seeds, images] = [count(setup.seeds, "seed"), `${setup.images.toLocaleString("en")} test images`];
    const still = setup.idle.map(label => ` ${capital(label)}: never started here, so its runs are cross entropy's.`);
    find("runs").textContent = `${gridOf(setups.value).title}. Shown: ${seeds}, ${images}.${still.join("")}`;
    slider.max = setup.losses[0].accuracy[0].length;
    const baseline = baselineOf(setup);
    find("baseline").textContent = baseline ? baseline.label : "nothing: not in this grid";
    modes.querySelector("[value=difference]").disabled = !baseline;
    if (!baseline) modes.querySelector("[value=accuracy]").checked = true;
  }

  // Sentences

  function sentences({ own, shown, k, mode, target, baseline }) {
    if (!own.length) return ["Choose at least one loss."];
    if (!shown.length) return [`Choose a loss other than ${baseline.label} to see differences to it.`];
    const goal = `${data.targets[target]} %`;
    return shown.map((loss, i) => {
      if (mode === "difference") {
        const points = inSentence(loss, "difference", k - 1, " points");
        const more = inSentence(loss, "more_candidates", target, "");
        return i ? `${capital(loss.label)}: ${points}, ${more} candidates.`
          : `With ${count(k, "candidate")}, ${loss.label} differs from ${baseline.label} by ${points} in accuracy, `
            + `and by ${more} in the candidates needed for ${goal}.`;
      }
      const accuracy = inSentence(loss, "accuracy", k - 1, " %");
      const needed = inSentence(loss, "candidates", target, "");
      return i ? `${capital(loss.label)}: ${accuracy}, needs ${needed}.`
        : `With ${count(k, "candidate")}, ${loss.label} finds the right class for ${accuracy} of the test images. `
          + `It needs ${needed} candidates for ${goal}.`;
    });
  }

  let speaking;
  function speak(lines) {
    clearTimeout(speaking);
    speaking = setTimeout(() => find("summary").replaceChildren(...lines.map(
      line => Object.assign(document.createElement("p"), { textContent: line }))), SPEAK_AFTER);
  }

  // Tables

  function tabulate(table, caption, head, rows) {
    table.replaceChildren();
    table.createCaption().textContent = caption;
    const cell = (tag, text, scope) => Object.assign(document.createElement(tag), { textContent: text, scope });
    table.createTHead().insertRow().append(...head.map(text => cell("th", text, "col")));
    const body = table.createTBody();
    for (const [first, ...rest] of rows) {
      body.insertRow().append(cell("th", first, "row"), ...rest.map(text => cell("td", text)));
    }
  }

  function tabulateNow({ own, k, target, baseline }) {
    const goal = `${data.targets[target]} %`;
    const against = baseline ? baseline.label : "the baseline";
    tabulate(find("now"),
      `At k = ${k}: accuracy, candidates needed for ${goal}, and the difference of both to ${against}. `
        + `Brackets: ${data.level} % intervals.`,
      ["loss", `top-${k} (%)`, "difference (points)", `k for ${goal}`, "difference (candidates)"],
      own.map(loss => [loss.label, inTable(loss, "accuracy", k - 1), inTable(loss, "difference", k - 1),
        inTable(loss, "candidates", target), inTable(loss, "more_candidates", target)]));
  }

  function tabulateCurves({ setup, shown, mode, baseline }) {
    const what = mode === "difference" ? `Difference to ${baseline.label} in points` : "Accuracy in percent";
    tabulate(find("curves"), `${what} at some k, with ${data.level} % bands that hold for all k at once.`,
      ["k", ...shown.map(loss => loss.label)],
      TABLE_KS.filter(k => k <= setup.losses[0].accuracy[0].length)
        .map(k => [String(k), ...shown.map(loss => inTable(loss, mode, k - 1))]));
  }

  // The chart

  function axisOf(rows, mode) {
    if (mode === "difference") return { scale: {}, axis: { title: "difference (points)" } };
    const top = Math.min(100, 1.1 * Math.max(...rows.map(row => row.high)));
    return { scale: { type: "log", reverse: true, domain: [SMALLEST_ERROR, top], nice: false },
      axis: { title: "accuracy (%)", values: [100, 80, 60, 40, 20, 10, 5, 2, 1, 0.5],
        labelExpr: "format(100 - datum.value, '.4~g')" } };
  }

  function specOf({ setup, shown, k, mode, target }) {
    const style = getComputedStyle(root);
    const [ink, grid] = [style.color, style.getPropertyValue("--pst-color-border").trim() || "#ccc"];
    const asDrawn = value => mode === "difference" ? value : Math.max(100 - value, SMALLEST_ERROR / 10);
    const rows = shown.flatMap(loss => loss[mode][0].map((_, i) => {
      const [estimate, low, high] = loss[mode].map(row => asDrawn(row[i]));
      return { k: i + 1, loss: loss.label, estimate, low: Math.min(low, high), high: Math.max(low, high) };
    }));
    const domain = shown.map(loss => loss.label);
    const { scale, axis } = axisOf(rows, mode);
    const y = field => ({ field, type: "quantitative", scale, axis });
    const classes = setup.losses[0].accuracy[0].length;
    const x = { field: "k", type: "quantitative", scale: { type: "log", domain: [1, classes], nice: false },
      axis: { title: "candidates shown (k)", values: [1, 2, 5, 10, 20, 50, 100], format: "d" } };
    const color = { field: "loss", type: "nominal", legend: null,
      scale: { domain, range: shown.map(loss => loss.colour) } };
    const strokeDash = { field: "loss", type: "nominal", legend: null,
      scale: { domain, range: shown.map(loss => dashOf(setup, loss)) } };
    const line = encoding => ({ data: { values: [{}] }, mark: { type: "rule", color: ink, opacity: 0.7 }, encoding });
    const level = mode === "difference" ? 0 : 100 - data.targets[target];
    return {
      width: "container", height: 340, background: "transparent", autosize: { type: "fit", contains: "padding" },
      params: [{ name: "shown_k", value: k }],
      data: { values: rows },
      layer: [
        { mark: { type: "area", opacity: 0.2, clip: true },
          encoding: { x, y: y("low"), y2: { field: "high" }, color } },
        line({ y: { datum: level, type: "quantitative", scale, axis },
          strokeDash: { value: mode === "difference" ? [1, 0] : [3, 3] } }),
        line({ x: { datum: { expr: "shown_k" }, type: "quantitative", scale: x.scale, axis: x.axis } }),
        { mark: { type: "line", strokeWidth: 2.5, clip: true }, encoding: { x, y: y("estimate"), color, strokeDash } },
        { transform: [{ filter: "datum.k == shown_k" }], encoding: { x, y: y("estimate"), color },
          mark: { type: "point", filled: true, size: 90, opacity: 1, clip: true } },
      ],
      config: { aria: false, font: style.fontFamily, view: { stroke: null },
        axis: { labelColor: ink, titleColor: ink, domainColor: ink, tickColor: ink, gridColor: grid,
          labelFontSize: 13, titleFontSize: 14, titleFontWeight: "normal" } },
    };
  }

  let view = null, drawn = "", queue = Promise.resolve();
  async function draw() {
    const state = chosen();
    const spec = specOf(state);
    const wanted = JSON.stringify({ ...spec, params: null });
    if (view && wanted === drawn) return view.signal("shown_k", state.k).runAsync(); // only the slider moved
    if (view) view.finalize();
    drawn = wanted;
    chart.hidden = !state.shown.length;
    const options = { actions: false, renderer: "svg", tooltip: false, defaultStyle: false };
    view = state.shown.length ? (await window.vegaEmbed(chart, spec, options)).view : null;
  }

  // All together

  function update() {
    const state = chosen();
    find("k-value").textContent = state.k;
    slider.setAttribute("aria-valuetext", count(state.k, "candidate"));
    const what = state.mode === "difference" ? `difference to ${state.baseline.label}` : "accuracy";
    find("figure").setAttribute("aria-label", `Line chart with bands: ${what} over the number of candidates for `
      + `${state.shown.map(loss => loss.label).join("; ")}. The tables below hold its numbers.`);
    speak(sentences(state));
    tabulateNow(state);
    tabulateCurves(state);
    queue = queue.then(draw);
  }

  fillSetups();
  target.replaceChildren(...data.targets.map((goal, i) => new Option(`${goal} %`, i)));
  target.value = data.targets.indexOf(99);
  fillLosses();
  root.hidden = false;
  setups.addEventListener("change", fillLosses);
  root.addEventListener("input", update);
  const theme = { attributes: true, attributeFilter: ["data-theme"] };
  new MutationObserver(update).observe(document.documentElement, theme);
  update();
})();
