// How large the noise of a token is, under the rule of embnoise and those of others.
//
// The formulas are those of the core (embnoise/_plan.py, embnoise/_scales.py): float32, in the same
// order, so that the numbers have the same bits. A square root or a quotient of float32 numbers
// that is computed in float64 and then rounded is correctly rounded.
//
// B rows, W tokens in a row, padding included; d channels.

const { fround, max, sqrt } = Math;

// The RMS of the unit values on the lattice of 65,536 points: embnoise.Distribution.rms.
export const UNIT_RMS = {
  uniform: sqrt((1 - 2 ** -32) / 3),
  rademacher: 1,
  gaussian: 1,
};

// What each rule takes for L, and whether it multiplies L by d.
export const RULES = [
  {
    id: "tokens",
    name: "embnoise",
    formula: "alpha / sqrt(L · d)",
    counts: "the real tokens of the sequence",
    length: (sequence) => sequence.length,
    channels: true,
    padding: false,
  },
  {
    id: "row",
    name: "The paper’s training code",
    formula: "alpha / sqrt(L · d)",
    counts: "the real tokens of the row",
    length: (sequence) => sequence.rowTokens,
    channels: true,
    padding: false,
  },
  {
    id: "width",
    name: "transformers, TRL, axolotl, LLaMA-Factory, unsloth, ms-swift, Ludwig, H2O LLM Studio",
    formula: "alpha / sqrt(W · d)",
    counts: "the width of the row",
    length: (_, batch) => batch.width,
    channels: true,
    padding: true,
  },
  {
    id: "elements",
    name: "dolomite-engine",
    formula: "alpha / sqrt(B · W · d)",
    counts: "all places of the batch",
    length: (_, batch) => batch.rows * batch.width,
    channels: true,
    padding: true,
  },
  {
    id: "places",
    name: "instructlab/training, PaddleNLP",
    formula: "alpha / sqrt(B · W)",
    counts: "all places of the batch; d is missing",
    length: (_, batch) => batch.rows * batch.width,
    channels: false,
    padding: true,
  },
];

// The batch that sequences of these lengths make, in one of four layouts.
export function layOut(lengths, layout, width) {
  const sequences = lengths.map((length, row) => ({ length, row, rowTokens: length }));
  const longest = max(...lengths);
  if (layout === "longest") return { rows: lengths.length, width: longest, sequences };
  if (layout === "flattened") width = lengths.reduce((sum, length) => sum + length, 0);
  if (width < longest) {
    throw new RangeError(`The width must be at least ${longest}, the longest sequence.`);
  }
  if (layout === "fixed") return { rows: lengths.length, width, sequences };
  const filled = [0]; // in order: a sequence that does not fit begins a row
  for (const sequence of sequences) {
    if (filled.at(-1) + sequence.length > width) filled.push(0);
    sequence.row = filled.length - 1;
    filled[sequence.row] += sequence.length;
  }
  for (const sequence of sequences) sequence.rowTokens = filled[sequence.row];
  return { rows: filled.length, width, sequences };
}

// The magnitude of a token: the half-width of uniform noise, the deviation of Gaussian noise.
export function magnitude(rule, alpha, sequence, batch, dim) {
  const length = fround(rule.length(sequence, batch));
  const divisor = rule.channels ? fround(length * fround(dim)) : length;
  return fround(fround(alpha) / fround(sqrt(divisor)));
}

// The noise of a batch under a rule: magnitudes by sequence, and the RMS over all real tokens.
export function noiseOf(rule, alpha, batch, dim, distribution) {
  const magnitudes = batch.sequences.map((each) => magnitude(rule, alpha, each, batch, dim));
  let squares = 0;
  let tokens = 0;
  batch.sequences.forEach(({ length }, i) => {
    squares += length * magnitudes[i] ** 2;
    tokens += length;
  });
  return { magnitudes, rms: sqrt(squares / tokens) * UNIT_RMS[distribution] };
}
