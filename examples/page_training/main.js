/** @file The page: gives its texts to the worker, which trains, and shows what comes back. */
const show = (id, text) => (document.querySelector(id).textContent = text);

document.querySelector('#train').addEventListener('click', ({target}) => {
  target.disabled = true;
  const worker = new Worker(new URL('./worker.js', import.meta.url), {type: 'module'});
  worker.onmessage = ({data: {backend, step, loss, written}}) => {
    if (loss !== undefined) show('#loss', `${backend}, step ${step}: loss ${loss.toFixed(3)}`);
    if (written !== undefined) show('#written', written);
    target.disabled = written === undefined;
  };
  const steps = Number(new URLSearchParams(location.search).get('steps') ?? 200);
  worker.postMessage({texts: document.querySelector('#texts').value.split('\n').filter(Boolean), steps});
});
