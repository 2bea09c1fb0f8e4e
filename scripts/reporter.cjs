/** @file mocha's spec reporter, ending with one plain line that people and programs can read. */
'use strict';
const Mocha = require('mocha');

class PlainSummary extends Mocha.reporters.Spec {
  epilogue() {
    super.epilogue();
    const {passes, failures, pending} = this.stats;
    console.log(`${passes} passed, ${failures} failed${pending ? `, ${pending} skipped` : ''}`);
  }
}

module.exports = PlainSummary;
