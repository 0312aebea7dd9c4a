// The page "How large is my noise?": reads the form, computes, and shows two tables.
//
// The settings are also in the address, so that a result can be linked to.

import { RULES, layOut, noiseOf } from "./magnitudes.js";

const MOST = { alpha: 1e6, dim: 1e6, tokens: 2 ** 24, sequences: 4096 };

const EXAMPLES = {
  "32 tokens padded to 512": { lengths: "32", layout: "fixed", width: "512" },
  "16 documents in a row of 2048": { lengths: "16x128", layout: "packed", width: "2048" },
  "A ragged batch": { lengths: "40, 120, 300, 512", layout: "longest", width: "512" },
};

const FORM = `
<form class="calculator" novalidate>
  <div class="field">
    <label for="dim">Embedding size d</label>
    <input id="dim" name="d" inputmode="numeric" list="dims" value="4096" autocomplete="off">
    <datalist id="dims">
      <option value="768">BERT base, GPT-2</option>
      <option value="1024">Qwen3 0.6B</option>
      <option value="2048">Llama 3.2 1B</option>
      <option value="2304">Gemma 2 2B</option>
      <option value="4096">Llama 3 8B</option>
    </datalist>
  </div>
  <div class="field">
    <label for="alpha">Alpha</label>
    <input id="alpha" name="alpha" inputmode="decimal" value="5" autocomplete="off">
  </div>
  <div class="field">
    <label for="distribution">Distribution</label>
    <select id="distribution" name="distribution">
      <option>uniform</option><option>rademacher</option><option>gaussian</option>
    </select>
  </div>
  <div class="field wide">
    <label for="lengths">Real tokens of each sequence</label>
    <input id="lengths" name="lengths" value="40, 120, 300, 512" autocomplete="off"
      aria-describedby="lengths-help">
    <small id="lengths-help">Numbers; 16x128 means sixteen sequences of 128 tokens.</small>
  </div>
  <div class="field wide">
    <label for="layout">Layout of the batch</label>
    <select id="layout" name="layout">
      <option value="longest">A row for each sequence, padded to the longest</option>
      <option value="fixed">A row for each sequence, padded to a fixed width</option>
      <option value="packed">Packed, in order, into rows of a fixed width</option>
      <option value="flattened">Padding-free: all in one row</option>
    </select>
  </div>
  <div class="field">
    <label for="width">Width of a row</label>
    <input id="width" name="width" inputmode="numeric" value="512" autocomplete="off">
  </div>
  <div class="examples" role="group" aria-label="Examples">Examples:</div>
</form>
<p id="problem" role="alert"></p>
<div id="result">
  <p id="summary" role="status"></p>
  <table class="rules">
    <caption>The batch under each rule</caption>
    <thead><tr>
      <th scope="col">Rule</th><th scope="col">Magnitude</th><th scope="col">RMS</th>
      <th scope="col">Ratio to embnoise</th><th scope="col">Padding</th>
      <th scope="col">Same RMS in embnoise</th>
    </tr></thead>
    <tbody></tbody>
  </table>
  <div class="scroll" role="region" tabindex="0" aria-label="Magnitude by length">
    <table class="lengths">
      <caption>Magnitude by length</caption>
      <thead></thead>
      <tbody></tbody>
    </table>
  </div>
</div>`;

const root = document.getElementById("calculator");
root.innerHTML = FORM;
const form = root.querySelector("form");
const find = (selector) => root.querySelector(selector);

// Where it goes wrong: the field that is at fault, and a sentence.
class InputError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

function number(field, label, { whole = true, least = 1, most }) {
  const value = form[field].value.trim() === "" ? NaN : Number(form[field].value);
  if (!(value >= least && value <= most) || (whole && !Number.isInteger(value))) {
    const kind = whole ? "a whole number" : "a number";
    throw new InputError(field, `${label} must be ${kind} from ${least} to ${most}.`);
  }
  return value;
}

function sequenceLengths() {
  const words = form.lengths.value.split(/[\s,;]+/).filter(Boolean);
  const groups = words.map((word) => /^(?:([1-9]\d*)[x×*])?([1-9]\d*)$/i.exec(word));
  const wrong = words.find((_, i) => !groups[i]);
  if (wrong || !words.length) {
    const seen = wrong ? `, got ${wrong}` : "";
    throw new InputError("lengths", `The lengths must be numbers such as 40, 16x128${seen}.`);
  }
  const sizes = groups.map(([, count = 1, length]) => [Number(count), Number(length)]);
  const sum = (terms) => terms.reduce((total, term) => total + term, 0);
  if (
    sum(sizes.map(([count]) => count)) > MOST.sequences ||
    sum(sizes.map(([count, length]) => count * length)) > MOST.tokens
  ) {
    throw new InputError(
      "lengths",
      `The batch may have ${MOST.sequences} sequences and ${MOST.tokens} tokens at most.`,
    );
  }
  return sizes.flatMap(([count, length]) => Array(count).fill(length));
}

function readForm() {
  const dim = number("d", "The embedding size d", { most: MOST.dim });
  const alpha = number("alpha", "Alpha", { whole: false, least: 0, most: MOST.alpha });
  const lengths = sequenceLengths();
  const layout = form.layout.value;
  const needsWidth = layout === "fixed" || layout === "packed";
  form.width.disabled = !needsWidth;
  const width = needsWidth ? number("width", "The width", { most: MOST.tokens }) : 0;
  try {
    const batch = layOut(lengths, layout, width);
    return { dim, alpha, batch, distribution: form.distribution.value };
  } catch (error) {
    if (error instanceof RangeError) throw new InputError("width", error.message);
    throw error;
  }
}

const shown = (value) => String(Number(value.toPrecision(4)));

function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)].map(shown);
  return low === high ? low : `${low} to ${high}`;
}

function cell(tag, content, { label, values, scope } = {}) {
  const element = document.createElement(tag);
  element.append(...[content].flat());
  if (label) element.dataset.label = label;
  if (values) element.dataset.values = JSON.stringify(values); // in full
  if (scope) element.scope = scope;
  return element;
}

function row(...cells) {
  const element = document.createElement("tr");
  element.append(...cells);
  return element;
}

function small(text) {
  const element = document.createElement("small");
  element.textContent = text;
  return element;
}

function ruleRow(rule, noise, ours, alpha) {
  const ratios = noise.magnitudes.map((value, i) => value / ours.magnitudes[i]);
  const sameRms = alpha * (noise.rms / ours.rms);
  const name = [rule.name, small(`${rule.formula}: ${rule.counts}`)];
  const line = row(
    cell("th", name, { scope: "row" }),
    cell("td", range(noise.magnitudes), { label: "Magnitude", values: noise.magnitudes }),
    cell("td", shown(noise.rms), { label: "RMS", values: [noise.rms] }),
    cell("td", range(ratios), { label: "Ratio to embnoise", values: ratios }),
    cell("td", rule.padding ? "noised" : "clean", { label: "Padding" }),
    cell("td", `alpha ${shown(sameRms)}`, { label: "Same RMS in embnoise", values: [sameRms] }),
  );
  line.dataset.rule = rule.id;
  return line;
}

function lengthRows(batch, noises) {
  const counts = new Map(); // one line for sequences that are alike
  batch.sequences.forEach((sequence, i) => {
    const magnitudes = noises.map((noise) => noise.magnitudes[i]);
    const key = [sequence.length, ...magnitudes].join();
    const seen = counts.get(key) ?? { length: sequence.length, magnitudes, count: 0 };
    counts.set(key, { ...seen, count: seen.count + 1 });
  });
  return [...counts.values()]
    .sort((one, other) => one.length - other.length)
    .map(({ length, magnitudes, count }) =>
      row(
        cell("th", count > 1 ? `${count} × ${length}` : String(length), { scope: "row" }),
        ...magnitudes.map((value) => cell("td", shown(value))),
      ),
    );
}

function summarize(batch, alpha, noises) {
  const size = `${batch.rows} ${batch.rows === 1 ? "row" : "rows"} of ${batch.width} tokens.`;
  if (alpha === 0) return `${size} With alpha 0 there is no noise.`;
  const width = RULES.findIndex((rule) => rule.id === "width");
  const ratios = noises[width].magnitudes.map((value, i) => value / noises[0].magnitudes[i]);
  const equal = Math.min(...ratios) === 1 && Math.max(...ratios) === 1;
  return equal
    ? `${size} Every row is full: transformers and embnoise add noise of the same size.`
    : `${size} transformers adds ${range(ratios)} times the noise of embnoise.`;
}

function show({ dim, alpha, batch, distribution }) {
  const noises = RULES.map((rule) => noiseOf(rule, alpha, batch, dim, distribution));
  find("#summary").textContent = summarize(batch, alpha, noises);
  const body = find(".rules tbody");
  body.replaceChildren(
    ...(alpha === 0 ? [] : RULES.map((rule, i) => ruleRow(rule, noises[i], noises[0], alpha))),
  );
  const heads = RULES.map((rule) => cell("th", rule.name.split(",")[0], { scope: "col" }));
  find(".lengths thead").replaceChildren(row(cell("th", "Tokens", { scope: "col" }), ...heads));
  find(".lengths tbody").replaceChildren(...lengthRows(batch, noises));
}

function update() {
  for (const field of form.elements) field.removeAttribute("aria-invalid");
  let problem = "";
  try {
    show(readForm());
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    problem = error.message;
    form[error.field].setAttribute("aria-invalid", "true");
  }
  find("#problem").textContent = problem;
  find("#result").hidden = Boolean(problem);
}

function fill(settings) {
  for (const [name, value] of settings) {
    if (form[name]) form[name].value = value;
  }
  update();
}

function remember() {
  history.replaceState(null, "", `?${new URLSearchParams(new FormData(form))}`);
}

for (const [name, settings] of Object.entries(EXAMPLES)) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => {
    fill(Object.entries(settings));
    remember();
  });
  find(".examples").append(button);
}
form.addEventListener("input", () => {
  update();
  remember();
});
form.addEventListener("submit", (event) => event.preventDefault());
fill(new URLSearchParams(location.search));
