/** @file mocha's spec reporter, ending with one plain line that people and programs can read. */
'use strict';
const Mocha = require('mocha');

class PlainSummary extends Mocha.reporters.Spec {
  /** "N passed, N failed", and how many were skipped if any were. */
  static line({passes, failures, pending}) {
    return `${passes} passed, ${failures} failed${pending ? `, ${pending} skipped` : ''}`;
  }

  epilogue() {
    super.epilogue();
    console.log(PlainSummary.line(this.stats));
  }
}

module.exports = PlainSummary;
