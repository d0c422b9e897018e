// The order of what a search finds: what the course says before what the package's pages say, unless a name is asked for.
var Scorer = {
  score: ([page, , , , score]) => (page.startsWith("api/") ? score - 10 : score),
  objNameMatch: 11, // these are Sphinx's own
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
