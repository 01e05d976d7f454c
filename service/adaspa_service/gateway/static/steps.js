// The kinds of denoising steps, and what a job's report says of their time.
export const KINDS = ["dense", "search", "sparse"];

export const count = (report) => KINDS.reduce((sum, kind) => sum + report[`${kind}_steps`], 0);
export const time = (report) => KINDS.reduce((sum, kind) => sum + report[`${kind}_seconds`], 0);

// An estimate: the job's own mean dense step for each of its steps, over the time that they took.
export function speedUp(report) {
  if (!report.dense_steps || count(report) === report.dense_steps) return null;
  const each = report.dense_seconds / report.dense_steps;
  return { each, dense: each * count(report), took: time(report), factor: (each * count(report)) / time(report) };
}
