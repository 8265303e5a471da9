"use strict";
((print, now, seed, given) => {
  // The clock stands still, so that a script that is run again after a crash says the same.
  const RealDate = Date;
  const FixedDate = function Date(...args) {
    if (new.target === undefined) return new RealDate(now).toString();
    const target = new.target === FixedDate ? RealDate : new.target;
    return Reflect.construct(RealDate, args.length === 0 ? [now] : args, target);
  };
  FixedDate.prototype = RealDate.prototype;
  FixedDate.parse = RealDate.parse;
  FixedDate.UTC = RealDate.UTC;
  FixedDate.now = () => now;
  Object.defineProperty(RealDate.prototype, "constructor", {
    value: FixedDate, writable: true, configurable: true,
  });
  Object.defineProperty(globalThis, "Date", {
    value: FixedDate, writable: true, configurable: true,
  });

  // Random numbers (mulberry32) follow from the execution, the node and the attempt.
  let state = seed >>> 0;
  Math.random = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  for (const name of ["Atomics", "SharedArrayBuffer", "WeakRef", "FinalizationRegistry", "performance", "gc"]) {
    delete globalThis[name];
  }

  const stringify = JSON.stringify;
  const shown = (value) => {
    if (typeof value === "string") return value;
    if (value instanceof Error) return String(value);
    try {
      const text = stringify(value);
      return text === undefined ? String(value) : text;
    } catch {
      return String(value);
    }
  };
  const printer = (level) => (...values) => print(level, values.map(shown).join(" "));
  globalThis.console = Object.freeze({
    debug: printer(0), log: printer(1), info: printer(1), warn: printer(2), error: printer(3),
  });

  const freeze = (root) => {
    const open = [root];
    while (open.length > 0) {
      const value = open.pop();
      if (typeof value !== "object" || value === null) continue;
      Object.freeze(value);
      for (const name of Object.keys(value)) open.push(value[name]);
    }
  };
  for (const value of given) freeze(value);

  // A sparse array of billions is walked by the engine without a look at the clock; none that fits in the memory is so long.
  const longest = 0x1000000;
  for (const holder of [Array.prototype]) {
    for (const name of Object.getOwnPropertyNames(holder)) {
      const method = holder[name];
      if (typeof method !== "function" || name === "constructor") continue;
      const bounded = {
        [name](...args) {
          if (!Array.isArray(this)) {
            throw new TypeError(`Array.prototype.${name} takes an array: use Array.from first`);
          }
          if (this.length > longest) throw new RangeError("the array is too long");
          return Reflect.apply(method, this, args);
        },
      }[name];
      Object.defineProperty(bounded, "length", { value: method.length, configurable: true });
      Object.defineProperty(holder, name, { value: bounded, writable: true, configurable: true });
    }
  }
})
