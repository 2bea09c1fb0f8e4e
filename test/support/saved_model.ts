/** @file Saves a model of layers to memory, through JSON as files have it, and loads it. */
import * as tf from '@tensorflow/tfjs';

/** What `model.save` writes. */
export async function artifactsOf(model: tf.LayersModel): Promise<tf.io.ModelArtifacts> {
  let saved: tf.io.ModelArtifacts | undefined;
  await model.save(
    tf.io.withSaveHandler((artifacts) => {
      const modelTopology = JSON.parse(JSON.stringify(artifacts.modelTopology)) as object;
      saved = {...artifacts, modelTopology};
      return Promise.resolve({modelArtifactsInfo: {dateSaved: new Date(0), modelTopologyType: 'JSON'}});
    }),
  );
  return saved!;
}

export async function savedAndLoaded(model: tf.LayersModel): Promise<tf.LayersModel> {
  return tf.loadLayersModel(tf.io.fromMemory(await artifactsOf(model)));
}
